//! Sets `VLCT_VERSION`: the version of the package, followed by the commit if the package is in a git checkout.

use std::path::Path;
use std::process::Command;

fn main() {
    let package = env!("CARGO_PKG_VERSION");
    let version = commit().map_or(package.to_string(), |commit| format!("{package} ({commit})"));
    println!("cargo::rustc-env=VLCT_VERSION={version}");
    println!("cargo::rerun-if-changed=build.rs");
    // Git appends to the log of HEAD whenever HEAD changes, for instance by a commit or a checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// Returns the abbreviated hash of the checked-out commit, or `None` if git does not track this file, for instance because an
/// archive was unpacked inside another repository.
fn commit() -> Option<String> {
    let tracked = git(&["ls-files", "--error-unmatch", "build.rs"]);
    tracked.and_then(|_| git(&["rev-parse", "--short=9", "HEAD"]))
}

/// Returns the output of a git command, or `None` if it fails or git is not installed.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_string())
}
