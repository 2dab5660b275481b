//! A test that several crates share.

/// Runs all tests of the current test program except `caller` at the levels `portable` and `v3`, in one process per level.
///
/// # Panics
/// If a test fails.
pub fn assert_tests_pass_at_lower_levels(caller: &str) {
    let program = std::env::current_exe().expect("path of the test program");
    for level in ["portable", "v3"] {
        let output = std::process::Command::new(&program)
            .env("VLCT_TEST_LEVEL", level)
            .args(["--skip", caller])
            .output()
            .expect("start the test program");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "tests fail at level {level}:\n{text}");
    }
}
