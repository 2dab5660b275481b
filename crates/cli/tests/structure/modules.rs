//! Imports between the modules of a crate: `use` declarations, and paths that begin with `crate` or `super`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::source;

/// Path of a module from the root of its crate.
type ModulePath = Vec<String>;

/// The modules of one crate.
pub struct Modules {
    /// Code of each module's file.
    code: BTreeMap<ModulePath, String>,
    /// Imports of each module: local name, and path as written.
    imports: BTreeMap<ModulePath, Vec<(String, Vec<String>)>>,
}

impl Modules {
    /// Reads the files of the directory `src` of a crate.
    pub fn read(src: &Path) -> Self {
        let paths = source::files(src, "rs").into_iter();
        let files = paths.filter(|path| !source::is_test_file(path)).map(|path| {
            let text = fs::read_to_string(src.join(&path)).expect("a source file");
            (path, text)
        });
        Self::new(files)
    }

    fn new(files: impl Iterator<Item = (PathBuf, String)>) -> Self {
        let code: BTreeMap<ModulePath, String> = files
            .map(|(path, text)| {
                let names = path.with_extension("");
                let mut module: ModulePath = names.iter().map(|name| name.to_string_lossy().into_owned()).collect();
                if ["mod", "lib", "main"].contains(&module.last().expect("a name").as_str()) {
                    module.pop();
                }
                (module, source::parse(&text).code)
            })
            .collect();
        let imports = code
            .iter()
            .map(|(module, code)| (module.clone(), imports(code)))
            .collect();
        Self { code, imports }
    }

    /// Returns the cycles of imports between modules with the same parent, one line each: `bf16: gemm -> rhs -> gemm`.
    ///
    /// An import of a submodule counts as an import of the sibling that contains the submodule. Imports between a module and its
    /// ancestors do not count.
    pub fn cycles(&self) -> Vec<String> {
        let mut edges_by_parent: BTreeMap<ModulePath, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
        for (from, code) in &self.code {
            let imported = self.imports[from].iter().map(|(_, path)| path.clone());
            for path in imported.chain(inline_paths(code)) {
                let Some(to) = self.resolve(from, &path, 8) else {
                    continue;
                };
                let shared = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                if from.len() > shared && to.len() > shared {
                    let edges = edges_by_parent.entry(from[..shared].to_vec()).or_default();
                    edges
                        .entry(from[shared].clone())
                        .or_default()
                        .insert(to[shared].clone());
                }
            }
        }
        let mut cycles = Vec::new();
        for (parent, edges) in &edges_by_parent {
            for cycle in cycles_of(edges) {
                let parent = if parent.is_empty() {
                    String::new()
                } else {
                    parent.join("::") + ": "
                };
                cycles.push(parent + &cycle.join(" -> "));
            }
        }
        cycles
    }

    /// Resolves `path`, as written in `module`, to a module, following at most `depth` re-exports. Returns `None` for paths outside
    /// the crate.
    fn resolve(&self, module: &ModulePath, path: &[String], depth: usize) -> Option<ModulePath> {
        let (mut current, mut rest) = match path.first()?.as_str() {
            "crate" => (ModulePath::new(), &path[1..]),
            "self" => (module.clone(), &path[1..]),
            "super" => (module[..module.len().checked_sub(1)?].to_vec(), &path[1..]),
            child if self.child(module, child).is_some() => (module.clone(), path),
            _ => return None,
        };
        while let Some((name, after)) = rest.split_first() {
            if name == "super" {
                current.pop()?;
            } else if let Some(child) = self.child(&current, name) {
                current = child;
            } else {
                // `name` is imported or defined in `current`.
                let import = self.imports.get(&current)?.iter().find(|(alias, _)| alias == name);
                let followed = import.filter(|_| depth > 0);
                return match followed {
                    Some((_, path)) => self.resolve(&current, path, depth - 1).or(Some(current)),
                    None => Some(current),
                };
            }
            rest = after;
        }
        Some(current)
    }

    fn child(&self, module: &ModulePath, name: &str) -> Option<ModulePath> {
        let child: ModulePath = module.iter().cloned().chain([name.to_string()]).collect();
        self.code.contains_key(&child).then_some(child)
    }
}

/// Returns the local names and paths of all `use` declarations in `code`.
fn imports(code: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(offset) = rest.find("use ") {
        let starts_word = rest[..offset]
            .chars()
            .next_back()
            .is_none_or(|c| !c.is_alphanumeric() && c != '_');
        rest = &rest[offset + 4..];
        if starts_word && let Some(end) = rest.find(';') {
            expand_use_tree(&[], &rest[..end], &mut found);
        }
    }
    found
}

/// Appends to `found` the local names and paths of a `use` tree such as `a::{b, c::{d as e}}`. `prefix` is the path before the tree.
fn expand_use_tree(prefix: &[String], tree: &str, found: &mut Vec<(String, Vec<String>)>) {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let mut path = prefix.to_vec();
        path.extend(segments(&tree[..open]));
        let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
        let (mut depth, mut start) = (0, 0);
        for (offset, c) in inner.char_indices() {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if c == ',' && depth == 0 {
                expand_use_tree(&path, &inner[start..offset], found);
                start = offset + 1;
            }
        }
        expand_use_tree(&path, &inner[start..], found);
    } else if !tree.is_empty() {
        let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
        let mut full = prefix.to_vec();
        full.extend(segments(path).filter(|name| name != "self" || begins_with_self(prefix, path)));
        let name = if alias.is_empty() {
            full.last().cloned().unwrap_or_default()
        } else {
            alias.trim().to_string()
        };
        found.push((name, full));
    }
}

/// Returns whether `path` begins with a `self` that means the current module. After a prefix, `self` means the prefix.
fn begins_with_self(prefix: &[String], path: &str) -> bool {
    prefix.is_empty() && path.trim_start().starts_with("self")
}

fn segments(path: &str) -> impl Iterator<Item = String> {
    path.split("::")
        .map(|name| name.trim().to_string())
        .filter(|name| !name.is_empty())
}

/// Returns the paths that begin with `crate::` or `super::`, in expressions and types.
fn inline_paths(code: &str) -> Vec<Vec<String>> {
    let is_path_char = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.split(|c| !is_path_char(c))
        .filter(|word| word.starts_with("crate::") || word.starts_with("super::"))
        .map(|word| segments(word).collect())
        .collect()
}

/// Returns cycles of a graph: for each node that no earlier cycle contains, the shortest cycle through this node.
pub fn cycles_of(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let mut cycles: Vec<Vec<String>> = Vec::new();
    for start in edges.keys() {
        if cycles.iter().any(|cycle| cycle.contains(start)) {
            continue;
        }
        let mut paths = vec![vec![start.clone()]];
        let mut seen = BTreeSet::new();
        while !paths.is_empty() && !paths.iter().any(|p| p.len() > 1 && p.last() == Some(start)) {
            let next = |path: &Vec<String>| {
                let nodes = edges.get(path.last().expect("not empty")).into_iter().flatten();
                nodes
                    .map(|node| [path.as_slice(), std::slice::from_ref(node)].concat())
                    .collect::<Vec<_>>()
            };
            paths = paths
                .iter()
                .flat_map(next)
                .filter(|path| seen.insert(path.last().cloned()))
                .collect();
        }
        cycles.extend(paths.into_iter().find(|path| path.last() == Some(start)));
    }
    cycles
}

#[test]
fn finds_cycles_through_reexports() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; pub use b::B as Bee;"),
        ("a/mod.rs", "use crate::{c::{self, C}, Bee}; mod x; mod y;"),
        ("a/x.rs", "fn f() { super::y::g() }"),
        ("a/y.rs", "use super::x;"),
        (
            "b.rs",
            "use std::fmt; use crate::a::A;\n#[cfg(test)]\nmod tests { use crate::c; }",
        ),
        ("c.rs", "//! use crate::a;"),
    ];
    let modules = Modules::new(files.into_iter().map(|(path, text)| (path.into(), text.into())));
    assert_eq!(modules.cycles(), ["a -> b -> a", "a: x -> y -> x"]);
}
