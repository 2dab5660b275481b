//! Compares the AVX-512 and AMX engines with the portable engine.
//!
//! A test whose instructions this CPU lacks is reported as ignored, with the reason in brackets. On x86-64 Linux without AMX, an
//! emulator executes the AMX instructions, so that they and their addresses are tested there, too.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx_emulator;
#[cfg(target_arch = "x86_64")]
mod x86;

use libtest_mimic::{Arguments, Trial};

/// Makes a test. If there is a reason to ignore the test, it is reported as ignored.
fn trial(name: &str, ignore_reason: Option<&str>, test: fn()) -> Trial {
    let trial = Trial::test(name, move || {
        test();
        Ok(())
    });
    match ignore_reason {
        Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
        None => trial,
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod x86 {
    pub fn trials() -> Vec<libtest_mimic::Trial> {
        ["avx512_bf16", "amx"]
            .map(|name| super::trial(name, Some("needs x86-64"), || ()))
            .into()
    }
}

fn main() {
    libtest_mimic::run(&Arguments::from_args(), x86::trials()).exit();
}
