//! Settings of downloads, from the environment variables of Python's `huggingface_hub`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vlct_util::{at, read_at_most};

use crate::HubError;
use crate::url::Url;

/// The Hub.
const ENDPOINT: &str = "https://huggingface.co";
/// Variables that switch downloads off.
pub(crate) const OFFLINE_VARIABLES: &str = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE";
/// Time without an answer or a byte after which a request has failed, as in `huggingface_hub`.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest time of a variable.
const MAX_TIMEOUT: u64 = 86_400;
/// Largest size of the file of the token in bytes.
const MAX_TOKEN: u64 = 1 << 20;

/// Settings of downloads.
#[derive(Clone)]
pub struct Settings {
    /// Address of the Hub, without `/` at the end.
    pub(crate) endpoint: Url,
    /// Directory of the cache.
    pub(crate) cache: PathBuf,
    /// The access token.
    pub(crate) token: Option<String>,
    /// Whether downloads are switched off.
    pub(crate) offline: bool,
    /// Whether files of the cache are symbolic links; otherwise hard links or copies.
    pub(crate) symlinks: bool,
    /// Time without an answer after which a request about a repository or a file has failed.
    pub(crate) answer_timeout: Duration,
    /// Time without a byte after which a download has failed.
    pub(crate) read_timeout: Duration,
    /// Number of failures in succession after which a download fails.
    pub(crate) tries: u32,
    /// The first pause between two tries; each next one is twice as long, up to eight times.
    pub(crate) pause: Duration,
    /// The longest pause that a server can ask for.
    pub(crate) max_pause: Duration,
}

impl Settings {
    /// Returns the settings of the environment variables of this process.
    ///
    /// # Errors
    /// Returns [`HubError::Variable`] if a value cannot be used, and [`HubError::Io`] if the file of the token cannot be read.
    pub fn from_environment() -> Result<Self, HubError> {
        Self::from_variables(&|name| std::env::var_os(name))
    }

    /// Returns the settings of the environment variables that `variable` returns. An empty variable counts as missing.
    ///
    /// # Errors
    /// Returns the errors of [`Settings::from_environment`].
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let value = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &'static str| match value(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(invalid(name, "it is not UTF-8")),
        };
        let is_set = |name: &str| {
            let value = value(name).unwrap_or_default().to_string_lossy().to_ascii_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
        };
        let seconds = |name: &'static str| match text(name)? {
            None => Ok(TIMEOUT),
            Some(text) => match text.trim().parse() {
                Ok(seconds @ 1..=MAX_TIMEOUT) => Ok(Duration::from_secs(seconds)),
                _ => Err(invalid(name, "it is not a number of seconds")),
            },
        };
        let user = || value("HOME").or_else(|| value("USERPROFILE")).map(PathBuf::from);
        let path = |name: &str| {
            let path = PathBuf::from(value(name)?);
            match path.strip_prefix("~") {
                Ok(rest) => Some(user()?.join(rest)),
                Err(_) => Some(path),
            }
        };
        let caches = || path("XDG_CACHE_HOME").or_else(|| Some(user()?.join(".cache")));
        let home = path("HF_HOME").or_else(|| Some(caches()?.join("huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub")));
        let cache = cache.ok_or_else(|| invalid("HF_HOME", "neither it nor HOME is set, so there is no cache"))?;

        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| ENDPOINT.into());
        let endpoint = Url::parse(endpoint.trim().trim_end_matches('/'));
        let endpoint =
            endpoint.ok_or_else(|| invalid("HF_ENDPOINT", "it is not an address with http:// or https://"))?;

        let mut token = None;
        if !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
                if token.is_none() {
                    token = clean_token(name, &text(name)?.unwrap_or_default())?;
                }
            }
            let file = path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
            if let (None, Some(file)) = (&token, file) {
                token = read_token(&file)?;
            }
        }
        Ok(Self {
            endpoint,
            cache,
            token,
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
            symlinks: !is_set("HF_HUB_DISABLE_SYMLINKS"),
            answer_timeout: seconds("HF_HUB_ETAG_TIMEOUT")?,
            read_timeout: seconds("HF_HUB_DOWNLOAD_TIMEOUT")?,
            tries: 6,
            pause: Duration::from_secs(1),
            max_pause: Duration::from_secs(120),
        })
    }

    /// Sets the number of tries, the first pause between them and the longest pause that a server can ask for. The values of
    /// [`Settings::from_environment`] are 6 tries, one second and two minutes.
    pub fn with_tries(mut self, tries: u32, pause: Duration, max_pause: Duration) -> Self {
        (self.tries, self.pause, self.max_pause) = (tries, pause, max_pause);
        self
    }
}

/// Reads the file of the token; a missing file has none.
fn read_token(path: &Path) -> Result<Option<String>, HubError> {
    let text = match read_at_most(path, MAX_TOKEN, "a token") {
        Ok(text) => text,
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8(text).map_err(|_| {
        at::<HubError>(path)(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "it is not a token",
        ))
    })?;
    clean_token("HF_TOKEN_PATH", &text)
}

/// Removes line breaks and spaces around a token.
fn clean_token(name: &'static str, text: &str) -> Result<Option<String>, HubError> {
    let token = text.trim();
    match token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok((!token.is_empty()).then(|| token.to_owned())),
        false => Err(invalid(name, "it is not a token")),
    }
}

fn invalid(variable: &'static str, reason: &str) -> HubError {
    HubError::Variable {
        variable,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        Settings::from_variables(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_cache_is_that_of_the_first_variable() {
        let all = [
            ("HF_HUB_CACHE", "/a"),
            ("HUGGINGFACE_HUB_CACHE", "/b"),
            ("HF_HOME", "/c"),
            ("XDG_CACHE_HOME", "~/d"),
            ("HOME", "/e"),
        ];
        let expected = [
            "/a",
            "/b",
            "/c/hub",
            "/e/d/huggingface/hub",
            "/e/.cache/huggingface/hub",
        ];
        for (i, expected) in expected.iter().enumerate() {
            let cache = settings(&all[i..]).unwrap().cache;
            assert_eq!(cache, Path::new(expected));
        }
        assert!(settings(&[]).is_err_and(|error| error.to_string().contains("HF_HOME")));
    }

    #[test]
    fn the_token_is_that_of_the_first_variable_or_of_a_file() {
        let home = tempfile::tempdir().unwrap();
        let home_text = home.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| {
            let all: Vec<(&str, &str)> = variables.iter().copied().chain([("HF_HOME", home_text)]).collect();
            settings(&all).unwrap().token
        };
        assert_eq!(token(&[]), None);
        std::fs::write(home.path().join("token"), "of_file\n").unwrap();
        assert_eq!(token(&[]).as_deref(), Some("of_file"));
        assert_eq!(token(&[("HUGGING_FACE_HUB_TOKEN", "old")]).as_deref(), Some("old"));
        let both = [("HUGGING_FACE_HUB_TOKEN", "old"), ("HF_TOKEN", " new\n")];
        assert_eq!(token(&both).as_deref(), Some("new"));
        assert_eq!(
            token(&[("HF_TOKEN", "new"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]),
            None
        );
        let other = home.path().join("other");
        assert_eq!(token(&[("HF_TOKEN_PATH", other.to_str().unwrap())]), None);
        let message = settings(&[("HOME", "/"), ("HF_TOKEN", "a\r\nX: y")])
            .err()
            .unwrap()
            .to_string();
        assert_eq!(message, "HF_TOKEN: it is not a token");
    }

    #[test]
    fn values_that_cannot_be_used_are_errors() {
        for (name, value) in [
            ("HF_ENDPOINT", "huggingface.co"),
            ("HF_ENDPOINT", "ftp://h"),
            ("HF_HUB_ETAG_TIMEOUT", "soon"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "0"),
        ] {
            let message = settings(&[("HOME", "/"), (name, value)]).err().unwrap().to_string();
            assert!(message.starts_with(name), "{message}");
        }
        let settings = settings(&[
            ("HOME", "/"),
            ("TRANSFORMERS_OFFLINE", "yes"),
            ("HF_ENDPOINT", "http://h:1/x/"),
        ]);
        let settings = settings.unwrap();
        assert!(settings.offline && settings.symlinks);
        assert_eq!(settings.endpoint.to_string(), "http://h:1/x");
    }
}
