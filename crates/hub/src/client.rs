//! Requests to the Hub: redirects, the token, failures that are worth another try.

use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

use ureq::http::{HeaderMap, Response};
use ureq::{Body, Proxy, ProxyProtocol};

use crate::url::{Url, encode};
use crate::{Event, HubError, Repository, Settings, tls};

/// Maximum number of redirects of a request.
const MAX_REDIRECTS: usize = 10;
/// Maximum size of the headers of an answer in bytes. Signed addresses of redirects have a few KiB.
const MAX_HEADERS: usize = 64 << 10;
/// Largest time in which an answer about a repository is read.
const LISTING_TIME: Duration = Duration::from_secs(120);

/// Header with the tag of a file whose content is on another server.
pub const LINKED_TAG: &str = "x-linked-etag";

/// A failed try.
#[derive(Debug)]
pub enum Failure {
    /// Another try can succeed.
    Temporary {
        /// What failed.
        reason: String,
        /// The pause for which the server asks.
        after: Option<Duration>,
    },
    /// Another try would fail, too.
    Final(HubError),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// What a request is about, for messages.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// A repository and its revision.
    Revision(&'a Repository),
    /// A file of a repository.
    File(&'a Repository, &'a str),
}

impl Subject<'_> {
    fn text(self) -> String {
        match self {
            Subject::Revision(repository) => repository.to_string(),
            Subject::File(repository, file) => format!("{file} of {repository}"),
        }
    }
}

/// A request.
enum Request {
    /// The headers only. A redirect that has the tag of the file, or leads to another server, is not followed: the next answer lacks the
    /// headers of the Hub.
    Head,
    /// A short answer.
    Get,
    /// The content of a file from this byte on.
    File(u64),
}

/// Sends requests to the Hub.
pub struct Client<'a> {
    agent: ureq::Agent,
    settings: &'a Settings,
}

impl<'a> Client<'a> {
    /// Makes a client.
    ///
    /// # Errors
    /// Returns [`HubError::Cpu`] if the address of the Hub begins with `https` and this CPU cannot do its arithmetic.
    pub fn new(settings: &'a Settings) -> Result<Self, HubError> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_response_header_size(MAX_HEADERS)
            .user_agent(concat!("vlct/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .timeout_connect(Some(settings.answer_timeout));
        // Redirects to https are checked in `send`.
        let is_proxy_encrypted = || Proxy::try_from_env().is_some_and(|proxy| proxy.protocol() == ProxyProtocol::Https);
        if settings.endpoint.is_https() || is_proxy_encrypted() {
            tls::check_cpu()?;
        }
        Ok(Self {
            agent: config.tls_config(tls::config()).build().new_agent(),
            settings,
        })
    }

    /// Returns the settings.
    pub fn settings(&self) -> &'a Settings {
        self.settings
    }

    /// Returns the answer about a revision.
    pub fn revision(&self, repository: &Repository) -> Result<Response<Body>, Failure> {
        let revision = encode(repository.revision(), false);
        let url = self.address(&format!("/api/models/{}/revision/{revision}", repository.name()))?;
        let subject = Subject::Revision(repository);
        let response = self.send(&url, &Request::Get)?;
        self.check(response, subject)
    }

    /// Returns the headers of a file.
    pub fn headers(&self, repository: &Repository, commit: &str, file: &str) -> Result<HeaderMap, Failure> {
        let url = self.file_address(repository, commit, file)?;
        let response = self.send(&url, &Request::Head)?;
        match response.status().is_redirection() {
            true => Ok(response.into_parts().0.headers),
            false => {
                let response = self.check(response, Subject::File(repository, file))?;
                Ok(response.into_parts().0.headers)
            }
        }
    }

    /// Returns the content of a file from byte `start` on. The answer has status 200 (the whole file), 206 (the rest) or 416 (there is
    /// no such byte).
    pub fn content(
        &self,
        repository: &Repository,
        commit: &str,
        file: &str,
        start: u64,
    ) -> Result<Response<Body>, Failure> {
        let url = self.file_address(repository, commit, file)?;
        let response = self.send(&url, &Request::File(start))?;
        match response.status().as_u16() {
            416 if start > 0 => Ok(response),
            _ => self.check(response, Subject::File(repository, file)),
        }
    }

    fn file_address(&self, repository: &Repository, commit: &str, file: &str) -> Result<Url, HubError> {
        self.address(&format!(
            "/{}/resolve/{commit}/{}",
            repository.name(),
            encode(file, true)
        ))
    }

    fn address(&self, path: &str) -> Result<Url, HubError> {
        let text = format!("{}{path}", self.settings.endpoint.to_string().trim_end_matches('/'));
        Url::parse(&text).ok_or_else(|| self.unexpected(format!("{text} is not an address")))
    }

    /// Sends a request and follows redirects. The token goes to the Hub only.
    fn send(&self, url: &Url, request: &Request) -> Result<Response<Body>, Failure> {
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(&url, request)?;
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let (true, Some(location)) = (response.status().is_redirection(), location) else {
                return Ok(response);
            };
            let next = url.join(location);
            let next =
                next.ok_or_else(|| self.unexpected("it redirects to something that is no http address".into()))?;
            if url.is_https() && !next.is_https() {
                return Err(self
                    .unexpected(format!("it redirects to {}, without encryption", next.host()))
                    .into());
            }
            if next.is_https() {
                tls::check_cpu()?;
            }
            let has_headers =
                || response.headers().contains_key(LINKED_TAG) || !next.has_same_server(&self.settings.endpoint);
            if matches!(request, Request::Head) && has_headers() {
                return Ok(response);
            }
            url = next;
        }
        Err(self.unexpected(format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    fn send_once(&self, url: &Url, request: &Request) -> Result<Response<Body>, Failure> {
        let mut builder = match request {
            Request::Head => self.agent.head(url.to_string()),
            Request::Get | Request::File(_) => self.agent.get(url.to_string()),
        };
        if let (Some(token), true) = (&self.settings.token, url.has_same_server(&self.settings.endpoint)) {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        if let Request::File(start @ 1..) = request {
            builder = builder.header("range", format!("bytes={start}-"));
        }
        let mut config = builder.config();
        config = match request {
            Request::Head | Request::Get => config
                .timeout_recv_response(Some(self.settings.answer_timeout))
                .timeout_recv_body(Some(LISTING_TIME)),
            Request::File(_) => config.timeout_recv_response(Some(self.settings.read_timeout)),
        };
        config = config.timeout_per_read(Some(self.settings.read_timeout));
        if is_this_computer(&url.host()) {
            config = config.proxy(None);
        }
        config.build().call().map_err(|error| self.failure(url, &error))
    }

    /// Turns an answer without success into a failure.
    fn check(&self, response: Response<Body>, subject: Subject) -> Result<Response<Body>, Failure> {
        let status = response.status().as_u16();
        let code = response
            .headers()
            .get("x-error-code")
            .and_then(|code| code.to_str().ok());
        let what = subject.text();
        let missing = |missing| HubError::Missing {
            what: what.clone(),
            missing,
            host: self.settings.endpoint.host(),
        };
        let access = |reason| HubError::Access {
            what: what.clone(),
            reason,
        };
        let has_token = self.settings.token.is_some();
        let error = match (status, code) {
            (200..=299, _) => return Ok(response),
            (408 | 429 | 500.., _) => {
                return Err(Failure::Temporary {
                    reason: format!("status {status} for {what}"),
                    after: retry_after(response.headers()),
                });
            }
            (401 | 403, Some("GatedRepo")) => access(
                "access is granted on the page of the repository; accept its conditions there, and set HF_TOKEN to a token of your account",
            ),
            (401 | 403, _) if has_token => {
                access("the repository does not exist, or the token (HF_TOKEN) gives no access to it")
            }
            (401 | 403, _) => {
                access("the repository does not exist, or is private: then set HF_TOKEN to a token that may read it")
            }
            (404, Some("RepoNotFound")) => missing("the repository"),
            (404, Some("RevisionNotFound")) => missing("the revision"),
            (404, Some("EntryNotFound")) => missing("the file"),
            (404, _) => missing(match subject {
                Subject::Revision(repository) if repository.to_string() == repository.name() => "the repository",
                Subject::Revision(_) => "the repository or its revision",
                Subject::File(..) => "the file",
            }),
            _ => self.unexpected(format!("status {status} for {what}")),
        };
        Err(error.into())
    }

    /// Turns an error of the connection into a failure.
    fn failure(&self, url: &Url, error: &ureq::Error) -> Failure {
        let host = url.host();
        let certificate = match error {
            ureq::Error::Rustls(error) => Some(error),
            ureq::Error::Io(error) => error.get_ref().and_then(|error| error.downcast_ref()),
            _ => None,
        };
        if let Some(rustls::Error::InvalidCertificate(_)) = certificate {
            let reason = format!(
                "{}; SSL_CERT_FILE can name a file of trusted certificates",
                certificate.map(ToString::to_string).unwrap_or_default()
            );
            return Failure::Final(HubError::Unreachable { host, reason });
        }
        let reason = match error {
            ureq::Error::Timeout(_) => "no answer in time".to_owned(),
            ureq::Error::Io(error) => error.to_string(),
            error => error.to_string(),
        };
        match error {
            // Another try gives the same answer.
            ureq::Error::Tls(_) | ureq::Error::Pem(_) | ureq::Error::InvalidProxyUrl => {
                Failure::Final(HubError::Unreachable { host, reason })
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::LargeResponseHeader(..) => {
                Failure::Final(self.unexpected(reason))
            }
            _ => Failure::Temporary {
                reason: match url.has_same_server(&self.settings.endpoint) {
                    true => reason,
                    false => format!("{host}: {reason}"),
                },
                after: None,
            },
        }
    }

    /// Returns the error of an unexpected answer.
    pub fn unexpected(&self, reason: String) -> HubError {
        HubError::Answer {
            host: self.settings.endpoint.host(),
            reason,
        }
    }

    /// Repeats a request until it succeeds or fails for good, at most `tries` times.
    ///
    /// # Errors
    /// Returns the final error, or [`HubError::Unreachable`] with the last failure.
    pub fn retry<T>(
        &self,
        tries: u32,
        on_event: &mut dyn FnMut(Event),
        mut request: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            match request() {
                Ok(result) => return Ok(result),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Temporary { reason, after }) => {
                    failures += 1;
                    self.pause(failures, tries, reason, after, on_event)?;
                }
            }
        }
    }

    /// Waits after the given number of failures in succession.
    ///
    /// # Errors
    /// Returns [`HubError::Unreachable`] if there were as many failures as `tries`.
    pub fn pause(
        &self,
        failures: u32,
        tries: u32,
        reason: String,
        after: Option<Duration>,
        on_event: &mut dyn FnMut(Event),
    ) -> Result<(), HubError> {
        let host = self.settings.endpoint.host();
        if failures >= tries {
            return Err(HubError::Unreachable { host, reason });
        }
        let pause = self.settings.pause * (1 << (failures - 1).min(3));
        let pause = after
            .map_or(pause, |after| after.max(pause))
            .min(self.settings.max_pause);
        let reason = format!("{host}: {reason}");
        on_event(Event::Retry { reason: &reason, pause });
        sleep(pause);
        Ok(())
    }
}

/// Returns the pause for which a server asks, in seconds; dates are ignored.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Returns whether a host, perhaps with a port, is this computer, to which no proxy leads.
fn is_this_computer(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(address) => address.split(']').next(),
        None => host.split(':').next(),
    };
    let name = name.unwrap_or_default();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_leads_to_this_computer() {
        for host in ["localhost", "127.0.0.1:80", "[::1]:80", "LocalHost:1"] {
            assert!(is_this_computer(host), "{host}");
        }
        for host in [
            "huggingface.co",
            "127.0.0.1.example",
            "[2001:db8::1]",
            "localhost.example:80",
        ] {
            assert!(!is_this_computer(host), "{host}");
        }
    }
}
