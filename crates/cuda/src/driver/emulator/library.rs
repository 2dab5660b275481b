//! Compiles kernels for the host, and opens the libraries.

use crate::driver::{Error, Result};
use libloading::{Library, Symbol};
use std::collections::HashMap;
use std::error::Error as _;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The directory of this crate.
const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// Options of every compilation. Kernels access the same memory as different types, as CUDA permits, and sums must not depend on whether
/// the compiler fuses multiplications and additions. `-O2` takes longer to compile and does not make the tests faster.
const OPTIONS: [&str; 10] = [
    "-x",
    "c++",
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-strict-aliasing",
    "-ffp-contract=off",
    "-DVLCT_EMULATOR",
];

/// The text of a `.cu` file.
#[derive(Clone, Debug)]
pub struct Source {
    /// The name of the file, for messages of the compiler and the emulator.
    pub name: String,
    /// The text.
    pub text: String,
}

impl Source {
    /// Reads all kernels of this crate, sorted by name.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn all() -> std::io::Result<Vec<Self>> {
        let mut sources = Vec::new();
        for entry in fs::read_dir(Path::new(CRATE).join("kernels"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "cu") {
                sources.push(Self::read(&path)?);
            }
        }
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(sources)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(path)?;
        Ok(Self { name, text })
    }

    /// Reads a file of `kernels`, by its name with extension.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn kernel_file(name: &str) -> std::io::Result<Self> {
        Self::read(&Path::new(CRATE).join("kernels").join(name))
    }

    /// Replaces `from`, which must occur exactly once, for tests with a planted fault.
    ///
    /// # Panics
    /// If the text does not contain `from` exactly once.
    #[must_use]
    pub fn with_fault(mut self, from: &str, to: &str) -> Self {
        assert_eq!(
            self.text.matches(from).count(),
            1,
            "{} must contain {from:?} once",
            self.name
        );
        self.text = self.text.replace(from, to);
        self
    }
}

/// A C++ compiler of this machine, and the directory that keeps what it has compiled.
#[derive(Clone, Debug)]
pub struct Compiler {
    command: String,
    /// What the compiler prints about its version.
    version: String,
    options: Vec<String>,
    cache: PathBuf,
}

impl Compiler {
    /// Finds a compiler: `$CXX`, `c++`, `g++` or `clang++`. `cache` is a directory for libraries, which the function creates.
    ///
    /// # Errors
    /// A line that says what is missing.
    pub fn find(cache: &Path) -> std::result::Result<Self, String> {
        fs::create_dir_all(cache).map_err(|e| format!("cannot create {}: {e}", cache.display()))?;
        let chosen = std::env::var("CXX").ok().filter(|command| !command.is_empty());
        let commands = chosen.into_iter().chain(["c++", "g++", "clang++"].map(String::from));
        commands
            .into_iter()
            .find_map(|command| {
                let output = Command::new(&command).arg("-v").output().ok()?;
                output.status.success().then(|| Self {
                    command,
                    version: String::from_utf8_lossy(&output.stderr).into_owned(),
                    options: Vec::new(),
                    cache: cache.to_path_buf(),
                })
            })
            .ok_or_else(|| "needs a C++ compiler ($CXX, c++, g++ or clang++)".to_string())
    }

    /// Adds options, such as those of sanitizers.
    #[must_use]
    pub fn with_options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(ToString::to_string));
        self
    }

    /// Returns the path of a library of the compiler's runtime, such as AddressSanitizer's; `None` if there is none.
    pub fn runtime_library(&self, name: &str) -> Option<PathBuf> {
        let output = Command::new(&self.command)
            .arg(format!("-print-file-name={name}"))
            .output()
            .ok()?;
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        path.is_absolute().then_some(path).filter(|path| path.exists())
    }

    /// Compiles a source, unless the cache has the library already, and opens it.
    pub(super) fn load(&self, source: &Source) -> Result<Kernels> {
        let path = self.compile(source).map_err(|message| Error::Driver {
            function: "compilation for the emulator",
            message: format!("{}: {message}", source.name),
        })?;
        Kernels::open(&path)
    }

    fn compile(&self, source: &Source) -> std::result::Result<PathBuf, String> {
        let directories = ["kernels", "emulator"].map(|name| Path::new(CRATE).join(name));
        let mut hasher = DefaultHasher::new();
        (&self.command, &self.version, &self.options, OPTIONS, &source.text).hash(&mut hasher);
        for header in headers(&directories).map_err(|e| e.to_string())? {
            (&header.name, &header.text).hash(&mut hasher);
        }
        let library = self.cache.join(format!("{}-{:016x}.so", source.name, hasher.finish()));
        if library.exists() {
            return Ok(library);
        }
        // Other processes may compile the same source: each renames its own file, and all files have the same content.
        let output = tempfile::Builder::new()
            .prefix(&source.name)
            .tempfile_in(&self.cache)
            .map_err(|e| e.to_string())?
            .into_temp_path();
        let mut compiler = Command::new(&self.command)
            .args(OPTIONS)
            .args(&self.options)
            .args(directories.iter().map(|path| format!("-I{}", path.display())))
            .args(["-", "-o"])
            .arg(&output)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{}: {e}", self.command))?;
        let text = format!("#line 1 \"{}\"\n{}", source.name, source.text);
        let written = compiler.stdin.take().map(|mut input| input.write_all(text.as_bytes()));
        let result = compiler.wait_with_output().map_err(|e| e.to_string())?;
        if !result.status.success() || !matches!(written, Some(Ok(()))) {
            return Err(String::from_utf8_lossy(&result.stderr).into_owned());
        }
        output.persist(&library).map_err(|e| e.to_string())?;
        Ok(library)
    }
}

/// Reads the headers in the directories, sorted by name.
fn headers(directories: &[PathBuf]) -> std::io::Result<Vec<Source>> {
    let mut headers = Vec::new();
    for directory in directories {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "h" || e == "cuh") {
                headers.push(Source::read(&path)?);
            }
        }
    }
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(headers)
}

/// A schedule as the libraries read it.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawSchedule {
    pub lockstep: u32,
    pub early_copies: u32,
    pub seed: u64,
}

type NameFunction = unsafe extern "C" fn(index: usize, parameters: *mut usize) -> *const c_char;
type LaunchFunction = unsafe extern "C" fn(
    name: *const c_char,
    grid: *const u32,
    block: *const u32,
    shared_bytes: usize,
    schedule: *const RawSchedule,
    arguments: *const *const c_void,
    error: *mut c_char,
    error_bytes: usize,
) -> c_int;

/// The kernels of one library.
pub(super) struct Kernels {
    launch: LaunchFunction,
    /// The number of parameters of each kernel.
    pub parameters: HashMap<String, usize>,
}

impl Kernels {
    fn open(path: &Path) -> Result<Self> {
        let fails = |error: libloading::Error| Error::Driver {
            function: "opening of a library for the emulator",
            message: format!(
                "{}: {}",
                path.display(),
                error.source().map_or_else(|| error.to_string(), ToString::to_string)
            ),
        };
        // SAFETY: the initialisers of a library of this crate only add its kernels to a list.
        let library = unsafe { Library::new(path) }.map_err(fails)?;
        // Threads keep stacks in thread-local variables of the library, so it stays loaded.
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: the types are those of the definitions in `emulator.h`.
        let (name, launch): (Symbol<NameFunction>, Symbol<LaunchFunction>) = unsafe {
            (
                library.get(b"vlct_emulator_kernel").map_err(fails)?,
                library.get(b"vlct_emulator_launch").map_err(fails)?,
            )
        };
        let mut parameters = HashMap::new();
        loop {
            let mut count = 0;
            // SAFETY: the function writes a count and returns null or a string of the library, which stays loaded.
            let name = unsafe {
                let name = name(parameters.len(), &raw mut count);
                (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
            };
            match name {
                Some(name) => parameters.insert(name, count),
                None => break,
            };
        }
        Ok(Self {
            launch: *launch,
            parameters,
        })
    }

    /// Runs a kernel of this library. Returns the text of an error.
    ///
    /// # Safety
    /// The number and types of the arguments are those of the kernel's parameters, and the kernel accesses valid memory only.
    pub unsafe fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: usize,
        schedule: RawSchedule,
        arguments: &[*const c_void],
    ) -> std::result::Result<(), String> {
        let name = CString::new(kernel).map_err(|e| e.to_string())?;
        let mut error = [0u8; 1024];
        // SAFETY: the arguments are valid (caller), and the function writes a string of at most this length to `error`.
        let code = unsafe {
            (self.launch)(
                name.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                shared_bytes,
                &raw const schedule,
                arguments.as_ptr(),
                error.as_mut_ptr().cast(),
                error.len(),
            )
        };
        if code == 0 {
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&error).unwrap_or_default();
        Err(text.to_string_lossy().into_owned())
    }
}
