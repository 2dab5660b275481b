//! Sets `VLCT_VERSION`: the version of the package, followed by the commit if the package is in a git checkout.

use std::path::Path;
use std::process::Command;

fn main() {
    let package = env!("CARGO_PKG_VERSION");
    let version = commit().map_or(package.to_string(), |commit| format!("{package} ({commit})"));
    println!("cargo::rustc-env=VLCT_VERSION={version}");
    println!("cargo::rerun-if-changed=build.rs");
    // The log of HEAD changes with every commit, checkout and rebase, and with nothing else.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
}

/// The abbreviated commit of the checkout that holds this package: none in an unpacked archive, even below another repository.
fn commit() -> Option<String> {
    let ours = git(&["ls-files", "--error-unmatch", "build.rs"]);
    ours.and_then(|_| git(&["rev-parse", "--short=9", "HEAD"]))
}

/// The output of a git command; none if it fails or there is no git.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_string())
}
