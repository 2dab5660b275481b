//! Runs the tests of kernels again in a process with AddressSanitizer and UndefinedBehaviorSanitizer, which see every access of a kernel.
//!
//! The runtime of AddressSanitizer must be the first library of a process, so the process begins with it in `LD_PRELOAD`.

use crate::support::{Device, compiler, test_kernel};
use crate::{Outcome, Test};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use vlct_cuda::driver::{Driver, Element};

/// The environment variable of the second process.
pub const VARIABLE: &str = "VLCT_SANITIZE";

/// The options of the compiler in the second process. Optimisation of instrumented code takes longer than it saves.
pub const OPTIONS: [&str; 4] = [
    "-fsanitize=address,undefined",
    "-fno-sanitize-recover=undefined",
    "-g",
    "-O1",
];

/// The name of the test with a planted fault.
const PLANTED: &str = "sanitizers::read_behind_memory";

pub fn tests() -> Vec<Test> {
    let run = |name: &str, run: fn(&Path) -> Outcome| {
        let library = library();
        let missing = library
            .is_none()
            .then(|| "needs Linux and GCC's libasan.so".to_string());
        let run = move || run(&library.expect("a test without the library is ignored"));
        Test {
            missing,
            ..Test::new(format!("sanitizers::{name}"), run)
        }
    };
    vec![
        run("kernels_access_only_their_memory", |library| {
            let output = process(library, &["--skip", PLANTED, "--skip", "::finds_"])?;
            let text = text(&output);
            if output.status.success() { Ok(()) } else { Err(text) }
        }),
        run("find_a_read_behind_memory", |library| {
            let text = text(&process(library, &[PLANTED])?);
            let found = text.contains("AddressSanitizer: heap-buffer-overflow") && text.contains("reads_behind_memory");
            if found {
                Ok(())
            } else {
                Err(format!("the planted fault is not found: {text}"))
            }
        }),
    ]
}

/// A test for the second process: a kernel reads one value behind a matrix.
pub fn planted() -> Vec<Test> {
    vec![Test::new(PLANTED, || {
        let device = Device::with_sources(&[test_kernel("execution.cu")])?;
        let [x, out] = [(); 2].map(|()| device.empty(32, Element::F32));
        let [x, out] = [x.map_err(|e| e.to_string())?, out.map_err(|e| e.to_string())?];
        let (addresses, index) = ([x.address(), out.address()], 1i32);
        let [x_at, out_at] = addresses.each_ref().map(|address| std::ptr::from_ref(address).cast());
        let arguments = [x_at, out_at, std::ptr::from_ref(&index).cast()];
        let stream = device.context.stream();
        // SAFETY: the types are those of the parameters. The read behind the matrix ends this process.
        unsafe {
            device
                .emulator
                .launch("reads_behind_memory", [1, 1, 1], [32, 1, 1], 0, stream, &arguments)
        }
        .map_err(|e| e.to_string())
    })]
}

fn library() -> Option<PathBuf> {
    let library = compiler().ok()?.runtime_library("libasan.so")?;
    cfg!(target_os = "linux").then_some(library)
}

fn process(library: &Path, arguments: &[&str]) -> Result<Output, String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    Command::new(program)
        .args(arguments)
        .env(VARIABLE, "1")
        .env("LD_PRELOAD", library)
        // The libraries of kernels stay loaded, and fibers have stacks that the sanitizer does not know.
        .env("ASAN_OPTIONS", "detect_leaks=0:detect_stack_use_after_return=0")
        .output()
        .map_err(|e| e.to_string())
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}
