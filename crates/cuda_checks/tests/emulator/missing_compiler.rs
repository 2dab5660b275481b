//! Without a C++ compiler, tests are ignored with the reason, and never pass.

use crate::{Outcome, Test};
use std::process::Command;

pub fn tests() -> Vec<Test> {
    vec![Test::new("missing_compiler::tests_are_ignored", tests_are_ignored)]
}

fn tests_are_ignored() -> Outcome {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let output = Command::new(program).env("PATH", "").env_remove("CXX").output();
    let output = output.map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let tests: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("test ") && !line.starts_with("test result"))
        .collect();
    let is_ignored = |line: &&str| line.contains("[needs a C++ compiler") && line.ends_with("ignored");
    match tests.iter().find(|line| !is_ignored(line)) {
        None if output.status.success() && tests.len() > 100 => Ok(()),
        None => Err(format!("{} tests, {}: {text}", tests.len(), output.status)),
        Some(line) => Err(format!("not ignored: {line}")),
    }
}
