//! Addresses: percent encoding, redirects relative to an address, and comparison of servers.

use std::fmt;

use ureq::http::Uri;

/// An address with the scheme `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(Uri);

impl Url {
    /// Parses an absolute address. Returns `None` for other schemes, and for an address without a host or with a password.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.split('#').next()?;
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let is_http = ["http", "https"].contains(&uri.scheme_str()?);
        (is_http && !authority.host().is_empty() && !authority.as_str().contains('@')).then_some(Self(uri))
    }

    /// Returns the address of a `Location` header in the answer of this address.
    pub fn join(&self, location: &str) -> Option<Self> {
        let location = location.trim();
        let authority = self.0.authority()?.as_str();
        let scheme = self.0.scheme_str()?;
        if location.contains("://") && !location.starts_with('/') {
            return Self::parse(location);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        if location.starts_with('/') {
            return Self::parse(&format!("{scheme}://{authority}{location}"));
        }
        let directory = self.0.path().rsplit_once('/').map_or("", |(directory, _)| directory);
        Self::parse(&format!("{scheme}://{authority}{directory}/{location}"))
    }

    /// Returns the name of the server, with its port if the address has one.
    pub fn host(&self) -> String {
        self.0.authority().map(ToString::to_string).unwrap_or_default()
    }

    /// Returns whether the connection is encrypted.
    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// Returns whether both addresses have the same scheme, host and port.
    pub fn has_same_server(&self, other: &Self) -> bool {
        let server = |url: &Self| {
            let default = if url.is_https() { 443 } else { 80 };
            let host = url.0.host().unwrap_or_default().to_ascii_lowercase();
            (url.is_https(), host, url.0.port_u16().unwrap_or(default))
        };
        server(self) == server(other)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Encodes a text as a part of a path. `/` is encoded too, unless `keep_slashes`.
pub fn encode(text: &str, keep_slashes: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            b'/' if keep_slashes => encoded.push('/'),
            byte => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_http_and_https_only() {
        for text in ["http://a", "https://a.b:1/c?d=e#f"] {
            assert!(Url::parse(text).is_some(), "{text}");
        }
        for text in [
            "",
            "a",
            "/a",
            "ftp://a/b",
            "file:///etc/passwd",
            "http://",
            "http://user:word@a/",
            "http://a b",
        ] {
            assert!(Url::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn redirects_are_relative_to_the_address() {
        let url = Url::parse("https://a:1/b/c?d").unwrap();
        let join = |location: &str| url.join(location).map(|url| url.to_string());
        assert_eq!(join("/x?y=http://z").as_deref(), Some("https://a:1/x?y=http://z"));
        assert_eq!(join("x").as_deref(), Some("https://a:1/b/x"));
        assert_eq!(join("//h/x").as_deref(), Some("https://h/x"));
        assert_eq!(join("http://h/x").as_deref(), Some("http://h/x"));
        assert_eq!(join("ftp://h/x"), None);
    }

    #[test]
    fn servers_differ_in_scheme_host_and_port() {
        let same = |a: &str, b: &str| Url::parse(a).unwrap().has_same_server(&Url::parse(b).unwrap());
        assert!(same("https://a/x", "https://A:443/y"));
        for other in ["http://a/x", "https://b/x", "https://a:444/x", "https://a.b/x"] {
            assert!(!same("https://a/x", other), "{other}");
        }
    }

    #[test]
    fn encodes_all_but_unreserved_characters() {
        assert_eq!(encode("a b/ü?.x", true), "a%20b/%C3%BC%3F.x");
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
