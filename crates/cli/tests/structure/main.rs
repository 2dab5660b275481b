//! Rules for code and documents: dependencies, sizes, messages of libraries, words, links.
//!
//! Exceptions are the constants below and the lines `except …` of `.ci/words.txt`.

mod modules;
mod source;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use modules::{Modules, cycles_of};
use source::{crates, files, is_test_file, root};

/// Crates that are programs or serve tests: their messages may name commands and options.
const NOT_LIBRARIES: [&str; 3] = ["cli", "fuzz", "golden"];

/// Maximum number of lines of a crate, not counting tests.
const MAX_LINES: usize = 9_000;

/// Options of other programs that messages may name, and a variable of a style sheet.
const FOREIGN_OPTIONS: [&str; 3] = ["--sparse", "tar --sort=name", "--share:"];

/// Returns the crates of the workspace that the crate `name` depends on, including dev-dependencies.
fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("crates").join(name).join("Cargo.toml")).expect("a manifest");
    let lines = manifest.lines().filter_map(|line| line.strip_prefix("vlct-"));
    // Directories have underscores where packages have hyphens.
    let names = lines.map(|line| line.split(['.', ' ', '=']).next().unwrap_or_default().replace('-', "_"));
    // Tests of a crate may depend on the crate itself, with other features.
    names.filter(|dependency| dependency != name).collect()
}

#[test]
fn crate_dependencies_have_no_cycles() {
    let edges: BTreeMap<_, _> = crates()
        .into_iter()
        .map(|name| (name.clone(), dependencies(&name)))
        .collect();
    assert!(
        edges["cli"].contains("train"),
        "dependencies are not read from manifests: {edges:?}"
    );
    assert_eq!(cycles_of(&edges), Vec::<Vec<String>>::new());
}

/// The layers are the lines of the diagram in ARCHITECTURE.md.
#[test]
fn crates_depend_on_lower_layers_only() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let lines = text
        .lines()
        .skip_while(|line| *line != "## Crates")
        .skip_while(|line| !line.starts_with("    "));
    let lines = lines.take_while(|line| line.starts_with("    "));
    let levels: BTreeMap<&str, usize> = lines
        .enumerate()
        .flat_map(|(level, line)| line.split_whitespace().map(move |name| (name, level)))
        .collect();
    assert_eq!(levels.get("cli"), Some(&0), "the diagram is not found");
    for (name, level) in &levels {
        for dependency in dependencies(name)
            .iter()
            .filter_map(|name| levels.get_key_value(name.as_str()))
        {
            assert!(
                dependency.1 > level,
                "{name} depends on {}, which is not below it",
                dependency.0
            );
        }
    }
}

#[test]
fn modules_have_no_import_cycles() {
    let mut found = BTreeSet::new();
    for name in crates() {
        let cycles = Modules::read(&root().join("crates").join(&name).join("src")).cycles();
        found.extend(cycles.into_iter().map(|cycle| format!("{name}: {cycle}")));
    }
    assert!(found.is_empty(), "import cycles: {found:#?}");
}

#[test]
fn no_crate_is_too_large() {
    for name in crates() {
        let src = root().join("crates").join(&name).join("src");
        let lines = |path: &std::path::PathBuf| {
            let text = fs::read_to_string(src.join(path)).expect("a source file");
            let tests = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
            text[..tests].lines().count()
        };
        let total: usize = files(&src, "rs")
            .iter()
            .filter(|path| !is_test_file(path))
            .map(lines)
            .sum();
        assert!(
            total <= MAX_LINES,
            "{name} has {total} lines without tests, more than {MAX_LINES}: split it"
        );
    }
}

/// Only `crates/cli` names options and commands, because other programs can use the libraries.
#[test]
fn libraries_name_no_options_or_commands() {
    let mut found = Vec::new();
    for name in crates().iter().filter(|name| !NOT_LIBRARIES.contains(&name.as_str())) {
        let src = root().join("crates").join(name).join("src");
        for path in files(&src, "rs").iter().filter(|path| !is_test_file(path)) {
            let text = fs::read_to_string(src.join(path)).expect("a source file");
            for (line, literal) in source::parse(&text).literals {
                let is_of_other_program = FOREIGN_OPTIONS.iter().any(|option| literal.contains(option));
                if !is_of_other_program && names_option_or_command(&literal) {
                    found.push(format!("{name}/src/{}:{line}: {literal}", path.display()));
                }
            }
        }
    }
    assert!(
        found.is_empty(),
        "libraries name options or commands:\n{}",
        found.join("\n")
    );
}

fn names_option_or_command(text: &str) -> bool {
    let starts_lowercase = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase());
    let has_option = text
        .match_indices("--")
        .any(|(offset, _)| !text[..offset].ends_with('-') && starts_lowercase(&text[offset + 2..]));
    has_option
        || text
            .match_indices("vlct ")
            .any(|(offset, _)| starts_lowercase(&text[offset + 5..]))
}

/// Checks paths in backticks that begin with `crates/`. If a path has the placeholder `NAME`, the part before it must exist.
#[test]
fn paths_in_documents_exist() {
    let mut missing = Vec::new();
    let mut checked = 0;
    for document in files(&root(), "md") {
        let text = fs::read_to_string(root().join(&document)).expect("a document");
        let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        for path in quoted.filter(|text| text.starts_with("crates/")) {
            checked += 1;
            let before_placeholder = path.split("NAME").next().expect("a first part");
            if !root().join(before_placeholder).exists() {
                missing.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(checked > 40, "only {checked} paths are found");
    assert!(
        missing.is_empty(),
        "documents name paths that do not exist:\n{}",
        missing.join("\n")
    );
}

#[test]
fn links_in_documents_resolve() {
    let mut broken = Vec::new();
    for document in files(&root(), "md") {
        let text = fs::read_to_string(root().join(&document)).expect("a document");
        for link in text
            .match_indices("](")
            .filter_map(|(offset, _)| text[offset + 2..].split(')').next())
        {
            if link.contains("://") || link.contains([' ', '\n']) {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if path.is_empty() {
                document.clone()
            } else {
                document.parent().expect("a parent").join(path)
            };
            let target = root().join(target);
            let has_heading = || {
                let text = fs::read_to_string(&target).unwrap_or_default();
                text.lines()
                    .filter(|line| line.starts_with('#'))
                    .any(|line| heading_anchor(line) == anchor)
            };
            if !target.exists() || !anchor.is_empty() && !has_heading() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

/// Returns the anchor that GitHub gives a heading.
fn heading_anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
