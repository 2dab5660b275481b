//! From a reference to a local path: from the cache, or after a download.

use std::path::PathBuf;

use vlct_util::read_at_most;

use crate::cache::Cache;
use crate::client::Client;
use crate::listing::{Listing, RemoteFile};
use crate::selection::{self, BESIDE, WEIGHTS, Weights};
use crate::settings::OFFLINE_VARIABLES;
use crate::transfer::{self, Source};
use crate::{Event, HubError, Reference, Repository, Settings};

/// Maximum size of an index of several weight files in bytes.
const MAX_INDEX: u64 = 64 << 20;

/// Returns the local path of the weights of a reference; see [`fetch`] for repositories. `settings` is called for repositories only.
///
/// # Errors
/// Returns [`HubError::NotADirectory`] if the path of a directory is none, and the errors of `settings` and of [`fetch`].
pub fn locate(
    reference: &Reference,
    settings: impl FnOnce() -> Result<Settings, HubError>,
    on_event: &mut dyn FnMut(Event),
) -> Result<PathBuf, HubError> {
    match reference {
        Reference::Directory(path) if path.is_dir() => Ok(path.clone()),
        Reference::Directory(path) => Err(HubError::NotADirectory(path.clone())),
        Reference::Hub(repository) => fetch(repository, &settings()?, on_event),
    }
}

/// Returns the local path of the weights of a repository: the directory of its files, or the weight file if it has a name that only the
/// repository's author knows. Missing files are downloaded; `on_event` is told what happens.
///
/// # Errors
/// Returns a [`HubError`] if the repository cannot be downloaded and is not in the cache.
pub fn fetch(
    repository: &Repository,
    settings: &Settings,
    on_event: &mut dyn FnMut(Event),
) -> Result<PathBuf, HubError> {
    let cache = Cache::new(settings, repository);
    let cached = Cached::find(&cache, repository);
    if let Some(cached) = &cached
        && (settings.offline || repository.commit().is_some() && cached.is_whole(&cache))
    {
        return Ok(cached.path(&cache));
    }
    if settings.offline {
        return Err(HubError::Offline {
            repository: repository.to_string(),
            directory: settings.cache.clone(),
            variable: OFFLINE_VARIABLES,
        });
    }
    // With files in the cache, a Hub that does not answer is asked only once.
    let tries = if cached.is_some() { 1 } else { settings.tries };
    let listing = Client::new(settings).and_then(|client| {
        let listing = client.retry(tries, on_event, || Listing::request(&client, repository))?;
        Ok((client, listing))
    });
    let (client, listing) = match (listing, cached) {
        (Ok(answer), _) => answer,
        (Err(error), Some(cached)) if error.allows_cache() => {
            on_event(Event::FromCache {
                repository: repository.name(),
                commit: &cached.commit,
                reason: &error.to_string(),
            });
            return Ok(cached.path(&cache));
        }
        (Err(error), _) => return Err(error),
    };
    Download {
        client: &client,
        cache: &cache,
        repository,
        listing: &listing,
    }
    .run(on_event)
}

/// A commit whose weights are in the cache.
struct Cached {
    commit: String,
    weights: Weights,
}

impl Cached {
    /// Returns the commit of a revision, if its weights are in the cache.
    fn find(cache: &Cache, repository: &Repository) -> Option<Self> {
        let commit = cache.commit(repository)?;
        let names = cache.names(&commit);
        let weights = selection::weights(&names).ok()?;
        if let Weights::Index(name) = &weights {
            let index = read_at_most(&cache.file(&commit, name), MAX_INDEX, "an index").ok()?;
            let shards = selection::shards(&index).ok()?;
            if !shards.iter().all(|shard| names.contains(shard)) {
                return None;
            }
        }
        Some(Self { commit, weights })
    }

    /// Returns whether the cache has all files of the commit that are needed: it has each, or knows that the commit does not.
    fn is_whole(&self, cache: &Cache) -> bool {
        let is_absent = |name: &str| cache.is_absent(&self.commit, name);
        let is_known = |name: &&str| cache.file(&self.commit, name).is_file() || is_absent(name);
        BESIDE.iter().all(is_known) && self.weights.preferred().iter().all(|name| is_absent(name))
    }

    fn path(&self, cache: &Cache) -> PathBuf {
        path(cache, &self.commit, &self.weights)
    }
}

/// Returns the path of weights: the directory of the commit if they have a usual name.
fn path(cache: &Cache, commit: &str, weights: &Weights) -> PathBuf {
    match weights {
        Weights::Named(_) | Weights::Index(_) => cache.snapshot(commit),
        Weights::Other(name) => cache.file(commit, name),
    }
}

/// The download of what the cache lacks of a commit.
struct Download<'a> {
    client: &'a Client<'a>,
    cache: &'a Cache,
    repository: &'a Repository,
    listing: &'a Listing,
}

impl Download<'_> {
    fn run(&self, on_event: &mut dyn FnMut(Event)) -> Result<PathBuf, HubError> {
        let commit = &self.listing.commit;
        let weights = selection::weights(&self.listing.files).map_err(|reason| HubError::NoWeights {
            repository: self.repository.to_string(),
            reason,
        })?;
        let has = |name: &str| self.listing.files.iter().any(|file| file == name);
        // Weights are the last, so that a commit with weights has everything.
        let mut names: Vec<String> = BESIDE
            .iter()
            .filter(|name| has(name))
            .map(|name| (*name).to_owned())
            .collect();
        match &weights {
            Weights::Named(name) | Weights::Other(name) => names.push(name.clone()),
            Weights::Index(name) => names.extend(self.shards(name, on_event)?),
        }
        let mut files = Vec::new();
        for name in names.iter().filter(|name| !self.cache.file(commit, name).is_file()) {
            files.push(self.request(name, on_event)?);
        }
        if !files.is_empty() {
            on_event(Event::Start {
                repository: self.repository.name(),
                commit,
                files: files.len(),
                bytes: files.iter().map(|file| file.size.unwrap_or(0)).sum(),
                present: files.iter().map(|file| transfer::present(self.cache, file)).sum(),
                directory: &self.cache.snapshot(commit),
            });
        }
        let mut before = 0;
        for file in &files {
            self.download(file, before, on_event)?;
            before += transfer::present(self.cache, file);
            on_event(Event::Progress { done: before });
        }
        let absent = BESIDE.iter().chain(&WEIGHTS).filter(|name| !has(name));
        match self.record(absent.copied()) {
            // A cache that has all files may be read-only.
            Err(_) if files.is_empty() => {}
            recorded => recorded?,
        }
        Ok(path(self.cache, commit, &weights))
    }

    /// Stores which files the commit lacks, and that the branch or tag has this commit.
    fn record(&self, mut absent: impl Iterator<Item = &'static str>) -> Result<(), HubError> {
        let commit = &self.listing.commit;
        absent.try_for_each(|name| self.cache.set_absent(commit, name))?;
        self.cache.set_commit(self.repository, commit)
    }

    /// Downloads an index, and returns the names of its files.
    fn shards(&self, name: &str, on_event: &mut dyn FnMut(Event)) -> Result<Vec<String>, HubError> {
        let commit = &self.listing.commit;
        let path = self.cache.file(commit, name);
        if !path.is_file() {
            let file = self.request(name, on_event)?;
            // Its bytes are not a part of the progress, which begins after it.
            self.download(&file, 0, &mut |event| match event {
                Event::Progress { .. } => {}
                event => on_event(event),
            })?;
        }
        let wrong = |reason: String| HubError::NoWeights {
            repository: self.repository.to_string(),
            reason: format!("{name}: {reason}"),
        };
        let shards = selection::shards(&read_at_most(&path, MAX_INDEX, "an index")?).map_err(wrong)?;
        match shards.iter().find(|shard| !self.listing.files.contains(shard)) {
            Some(missing) => Err(wrong(format!(
                "the index names {missing}, which is not in the repository"
            ))),
            None => Ok(shards),
        }
    }

    fn request(&self, name: &str, on_event: &mut dyn FnMut(Event)) -> Result<RemoteFile, HubError> {
        let tries = self.client.settings().tries;
        self.client.retry(tries, on_event, || {
            RemoteFile::request(self.client, self.repository, &self.listing.commit, name)
        })
    }

    fn download(&self, file: &RemoteFile, before: u64, on_event: &mut dyn FnMut(Event)) -> Result<(), HubError> {
        let source = Source {
            repository: self.repository,
            commit: &self.listing.commit,
            file,
        };
        transfer::fetch(self.client, self.cache, &source, before, on_event)?;
        self.cache.link(&self.listing.commit, &file.name, &file.tag)
    }
}
