//! Where NVIDIA's libraries are searched, and how they are opened.
//!
//! The order: the directory `VLCT_CUDA`, the loader's own path, `lib64` and `lib` of `CUDA_HOME` and `CUDA_PATH`, `lib` of the active conda
//! environment, and the packages of the active Python, where `pip install nvidia-cublas` and PyTorch have libraries. Python is not executed:
//! directories beside the interpreter are read.

use libloading::Library;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

/// A library that is searched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// File names, the preferred one first.
    pub names: &'static [&'static str],
    /// Directories where the library is beside those of the general order.
    pub directories: &'static [&'static str],
}

/// The driver. The directories are those of WSL, of GKE's containers and of NixOS.
pub(super) const DRIVER: Wanted = Wanted {
    names: &["libcuda.so.1"],
    directories: &["/usr/lib/wsl/lib", "/usr/local/nvidia/lib64", "/run/opengl-driver/lib"],
};

/// cuBLASLt of CUDA 13 or 12; drivers of CUDA 13 run both.
pub(super) const CUBLAS_LT: Wanted = Wanted {
    names: &["libcublasLt.so.13", "libcublasLt.so.12"],
    directories: &[],
};

/// NCCL 2. Packages of Python have it in `nvidia/nccl/lib`.
pub(super) const NCCL: Wanted = Wanted {
    names: &["libnccl.so.2", "libnccl.so"],
    directories: &[],
};

/// The part of the search that the loader (`ld.so`) does, for bare file names.
const LOADER: &str = "the loader's path";

/// What the search depends on beside the file system.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    /// Values of environment variables.
    pub variables: HashMap<&'static str, OsString>,
}

/// Variables that the search reads.
const VARIABLES: [&str; 7] = [
    "VLCT_CUDA",
    "CUDA_HOME",
    "CUDA_PATH",
    "CONDA_PREFIX",
    "VIRTUAL_ENV",
    "PATH",
    "HOME",
];

impl Environment {
    /// The environment of this program.
    pub fn current() -> Self {
        let value = |name| std::env::var_os(name).map(|value| (name, value));
        Self {
            variables: VARIABLES.into_iter().filter_map(value).collect(),
        }
    }

    /// An absolute path in a variable.
    fn path(&self, name: &str) -> Option<PathBuf> {
        self.variables
            .get(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    }
}

/// A file that may be the library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The path, or a bare file name for the loader's path.
    pub path: PathBuf,
    /// Which part of the search has found it.
    pub origin: &'static str,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.path.display(), self.origin)
    }
}

/// Directories that one rule of the order names.
struct Place {
    origin: &'static str,
    directories: Vec<PathBuf>,
}

/// Returns the files to try, in order: those that exist, and the names that the loader searches.
pub(super) fn candidates(wanted: &Wanted, environment: &Environment) -> Vec<Candidate> {
    let below = |variable: &'static str, names: &[&str]| Place {
        origin: variable,
        directories: environment
            .path(variable)
            .map(|root| names.iter().map(|name| root.join(name)).collect())
            .unwrap_or_default(),
    };
    let packages = site_packages(environment);
    let places = [
        below("VLCT_CUDA", &["", "lib64", "lib"]),
        Place {
            origin: LOADER,
            directories: vec![PathBuf::new()],
        },
        Place {
            origin: "a directory of the system",
            directories: wanted.directories.iter().map(PathBuf::from).collect(),
        },
        below("CUDA_HOME", &["lib64", "lib"]),
        below("CUDA_PATH", &["lib64", "lib"]),
        below("CONDA_PREFIX", &["lib"]),
        Place {
            origin: "packages of Python",
            directories: packages
                .iter()
                .flat_map(|packages| subdirectories(&packages.join("nvidia"), ""))
                .map(|directory| directory.join("lib"))
                .collect(),
        },
    ];
    let mut found: Vec<Candidate> = Vec::new();
    for Place { origin, directories } in places {
        for name in wanted.names {
            for directory in &directories {
                let path = directory.join(name);
                let is_new = found.iter().all(|candidate| candidate.path != path);
                if is_new && (origin == LOADER || path.exists()) {
                    found.push(Candidate { path, origin });
                }
            }
        }
    }
    found
}

/// The directories with packages of the active Python: of the virtual environment, else of the conda environment, else of each `python3` in
/// `PATH`, and last those of the user.
fn site_packages(environment: &Environment) -> Vec<PathBuf> {
    let active = ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .find_map(|name| environment.path(name));
    let mut prefixes: Vec<PathBuf> = match active {
        Some(prefix) => vec![prefix],
        None => interpreters(environment),
    };
    prefixes.extend(environment.path("HOME").map(|home| home.join(".local")));
    let libraries = prefixes.iter().map(|prefix| prefix.join("lib"));
    let pythons = libraries.flat_map(|library| subdirectories(&library, "python3"));
    pythons
        .flat_map(|python| ["site-packages", "dist-packages"].map(|name| python.join(name)))
        .collect()
}

/// The prefixes of each `python3` in `PATH`: the parent of the directory that contains the link, and of the one that contains the program.
fn interpreters(environment: &Environment) -> Vec<PathBuf> {
    let Some(path) = environment.variables.get("PATH") else {
        return Vec::new();
    };
    let mut prefixes = Vec::new();
    for directory in std::env::split_paths(path).filter(|directory| directory.is_absolute()) {
        let link = directory.join("python3");
        let program = link.canonicalize().ok();
        for file in program.iter().flat_map(|program| [&link, program]) {
            let prefix = file.parent().and_then(Path::parent).map(Path::to_path_buf);
            prefixes.extend(prefix.filter(|prefix| !prefixes.contains(prefix)));
        }
    }
    prefixes
}

/// The entries of a directory whose names begin so, in descending order, so that newer versions are first.
fn subdirectories(directory: &Path, start: &str) -> Vec<PathBuf> {
    let begins = |name: &OsStr| name.to_string_lossy().starts_with(start);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter(|entry| begins(&entry.file_name()))
        .map(|entry| entry.path())
        .collect();
    paths.sort_unstable_by(|a, b| b.cmp(a));
    paths
}

/// An open library.
#[derive(Debug)]
pub(super) struct Loaded {
    pub library: Library,
    /// The file, and which part of the search has found it.
    pub found: Candidate,
}

/// Opens the first candidate that can be opened. If there is none, returns the errors of existing files, one line each.
pub(super) fn open(wanted: &Wanted, environment: &Environment) -> Result<Loaded, Vec<String>> {
    let mut errors = Vec::new();
    for found in candidates(wanted, environment) {
        // SAFETY: these libraries of NVIDIA may be opened at any time; the directories are those that the user has chosen or installed.
        match unsafe { Library::new(&found.path) } {
            Ok(library) => return Ok(Loaded { library, found }),
            Err(error) if found.path.is_absolute() => errors.push(format!("{found}: {}", reason(&error))),
            // The loader does not say whether the file is missing or damaged.
            Err(_) => {}
        }
    }
    Err(errors)
}

/// The loader's text, without the name of the function that has failed.
fn reason(error: &libloading::Error) -> String {
    use std::error::Error as _;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A directory tree with these empty files, and variables whose values are paths below it, separated by colons.
    struct Tree {
        root: tempfile::TempDir,
        environment: Environment,
    }

    impl Tree {
        fn new(files: &[&str], variables: &[(&'static str, &str)]) -> Self {
            let root = tempfile::tempdir().expect("a directory");
            for file in files {
                let path = root.path().join(file);
                fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
                fs::write(path, b"").expect("a file");
            }
            let absolute = |value: &str| {
                let paths = value.split(':').map(|path| root.path().join(path));
                std::env::join_paths(paths).expect("paths without colons")
            };
            let variables = variables.iter().map(|(name, value)| (*name, absolute(value)));
            let environment = Environment {
                variables: variables.collect(),
            };
            Self { root, environment }
        }

        /// The candidates for cuBLASLt below the root, and where the loader is tried.
        fn found(&self) -> Vec<String> {
            let name = |candidate: Candidate| {
                let path = candidate.path.strip_prefix(self.root.path()).unwrap_or(&candidate.path);
                format!("{} {}", candidate.origin, path.display())
            };
            candidates(&CUBLAS_LT, &self.environment)
                .into_iter()
                .map(name)
                .collect()
        }
    }

    const LOADER_TRIES: [&str; 2] = [
        "the loader's path libcublasLt.so.13",
        "the loader's path libcublasLt.so.12",
    ];

    #[test]
    fn without_variables_only_the_loader_is_asked() {
        let tree = Tree::new(&["lib/libcublasLt.so.13"], &[]);
        assert_eq!(tree.found(), LOADER_TRIES);
    }

    #[test]
    fn the_order_is_as_documented() {
        let tree = Tree::new(
            &[
                "own/libcublasLt.so.12",
                "toolkit/lib64/libcublasLt.so.13",
                "toolkit/lib64/libcublasLt.so.12",
                "other/lib64/libcublasLt.so.13",
                "conda/lib/libcublasLt.so.12",
                "venv/lib/python3.12/site-packages/nvidia/cublas/lib/libcublasLt.so.12",
                "venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
                "venv/lib/python3.12/site-packages/nvidia/cudnn/lib/libcudnn.so.9",
            ],
            &[
                ("VLCT_CUDA", "own"),
                ("CUDA_HOME", "toolkit"),
                ("CUDA_PATH", "other"),
                ("CONDA_PREFIX", "conda"),
                ("VIRTUAL_ENV", "venv"),
            ],
        );
        assert_eq!(
            tree.found(),
            [
                "VLCT_CUDA own/libcublasLt.so.12",
                LOADER_TRIES[0],
                LOADER_TRIES[1],
                "CUDA_HOME toolkit/lib64/libcublasLt.so.13",
                "CUDA_HOME toolkit/lib64/libcublasLt.so.12",
                "CUDA_PATH other/lib64/libcublasLt.so.13",
                "CONDA_PREFIX conda/lib/libcublasLt.so.12",
                "packages of Python venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
                "packages of Python venv/lib/python3.12/site-packages/nvidia/cublas/lib/libcublasLt.so.12",
            ]
        );
    }

    /// The interpreter of a virtual environment that is not activated, but in `PATH`, is a link: packages beside the link count first.
    #[test]
    #[cfg(unix)]
    fn packages_are_found_beside_the_interpreter() {
        let tree = Tree::new(
            &[
                "usr/bin/python3",
                "usr/lib/python3/dist-packages/nvidia/cublas/lib/libcublasLt.so.12",
                "env/lib/python3.11/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
                "home/.local/lib/python3.11/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
                "unrelated/lib/python3.11/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
            ],
            &[("PATH", "missing:env/bin"), ("HOME", "home")],
        );
        let path = |name: &str| tree.root.path().join(name);
        fs::create_dir_all(path("env/bin")).expect("a directory");
        std::os::unix::fs::symlink(path("usr/bin/python3"), path("env/bin/python3")).expect("a link");
        // Temporary directories may be below a link, which the search resolves.
        let found: Vec<String> = tree
            .found()
            .iter()
            .map(|line| {
                line.rsplit_once("lib/python3")
                    .map_or(line.as_str(), |(_, end)| end)
                    .into()
            })
            .collect();
        assert_eq!(
            found[2..],
            [
                ".11/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
                ".11/site-packages/nvidia/cu13/lib/libcublasLt.so.13",
                "/dist-packages/nvidia/cublas/lib/libcublasLt.so.12",
            ]
        );
        assert!(tree.found()[2].contains("env/lib") && tree.found()[3].contains("home/.local"));
        let mut active = tree.environment.clone();
        active.variables.insert("VIRTUAL_ENV", path("unrelated").into());
        let paths: Vec<_> = candidates(&CUBLAS_LT, &active).into_iter().map(|c| c.path).collect();
        assert!(paths[2].starts_with(path("unrelated")), "{paths:?}");
        assert!(paths.iter().all(|found| !found.starts_with(path("env"))), "{paths:?}");
    }

    /// A relative path would depend on the working directory, which may belong to someone else.
    #[test]
    fn relative_paths_are_ignored() {
        let environment = Environment {
            variables: HashMap::from([("VLCT_CUDA", "lib".into()), ("PATH", ".:bin".into())]),
        };
        let paths: Vec<_> = candidates(&CUBLAS_LT, &environment);
        assert_eq!(paths.len(), LOADER_TRIES.len(), "{paths:?}");
    }

    #[test]
    fn a_damaged_library_is_named_with_its_path() {
        let name = "libvlct-missing.so.1";
        let wanted = Wanted {
            names: &["libvlct-missing.so.1"],
            directories: &[],
        };
        let tree = Tree::new(&["own/libvlct-missing.so.1"], &[("VLCT_CUDA", "own")]);
        let errors = open(&wanted, &tree.environment).expect_err("an empty file is no library");
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].contains(name) && errors[0].contains("(VLCT_CUDA): "),
            "{errors:?}"
        );
    }
}
