//! Tests of the driver of NVIDIA's devices with simulated libraries (`libraries.cpp`): they show that the host's side calls them correctly,
//! and nothing about a device.
//!
//! Each test runs in a process of its own, whose variable `VLCT_CUDA` names the directory of the libraries. Without a C++ compiler, or where
//! libraries have other names than on Linux, all tests are reported as ignored.

mod scenarios;

use libtest_mimic::{Arguments, Trial};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The variable that names the test of a process.
const SCENARIO: &str = "VLCT_SIMULATED";

fn main() -> ExitCode {
    if let Ok(name) = std::env::var(SCENARIO) {
        return match scenarios::run(&name) {
            Ok(()) => ExitCode::SUCCESS,
            Err(difference) => {
                eprintln!("{difference}");
                ExitCode::FAILURE
            }
        };
    }
    let compiled = compile();
    let trials = scenarios::ALL.iter().map(|scenario| {
        let (name, variables) = (scenario.name, scenario.variables);
        let directory = compiled.clone();
        let trial = Trial::test(name, move || {
            let directory = directory?;
            let program = std::env::current_exe().map_err(|e| e.to_string())?;
            let output = Command::new(program)
                .env("VLCT_CUDA", directory)
                .env(SCENARIO, name)
                .envs(variables.iter().copied())
                .output()
                .map_err(|e| e.to_string())?;
            if output.status.success() {
                return Ok(());
            }
            Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
        });
        match &compiled {
            Ok(_) => trial,
            Err(reason) => trial.with_kind(reason.clone()).with_ignored_flag(true),
        }
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Compiles the libraries. Returns their directory, or what is missing; a message of the compiler ends the program.
fn compile() -> Result<PathBuf, String> {
    if !cfg!(target_os = "linux") {
        return Err("needs Linux".into());
    }
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("simulated-cuda");
    std::fs::create_dir_all(&directory).expect("a directory");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/simulated/libraries.cpp");
    let compilers = std::env::var("CXX")
        .ok()
        .into_iter()
        .chain(["c++", "g++", "clang++"].map(String::from));
    let compiler = compilers
        .filter(|compiler| !compiler.is_empty())
        .find(|compiler| Command::new(compiler).arg("-v").output().is_ok())
        .ok_or("needs a C++ compiler ($CXX, c++, g++ or clang++)")?;
    let library = directory.join("libcuda.so.1");
    let output = Command::new(compiler)
        .args(["-std=c++17", "-O1", "-fPIC", "-shared", "-fvisibility=hidden", "-o"])
        .args([&library, &source])
        .output()
        .expect("the compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Links: all names are the same library, with the same state.
    for name in ["libcublasLt.so.13", "libnccl.so.2"] {
        let link = directory.join(name);
        let _ = std::fs::remove_file(&link);
        #[cfg(unix)]
        std::os::unix::fs::symlink(&library, &link).expect("a link");
    }
    Ok(directory)
}
