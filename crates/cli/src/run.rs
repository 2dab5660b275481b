//! `vlct run [COMMAND] [with UPDATE...]`: parses the command line as Sacred, the configuration library of the original, does.
//! clap cannot express this syntax.

use std::io::Write;
use std::path::Path;

use log::{info, warn};
use vlct_config::{Config, Key, NAMED_CONFIGS, NamedConfig, Resolved};
use vlct_train::spec::{self, RunSpec};
use vlct_train::trainer::{self, Control};
use vlct_util::{IoError, at, atomic};

use crate::args::Run;
use crate::hints::with_hint;
use crate::output::{Failure, print};
use crate::ranks::{Place, check_interruption, quiet_other_ranks};
use crate::references;
use crate::shell::shell_word;
use crate::signals::Signals;

/// The commands and their help.
const COMMANDS: [(&str, &str); 5] = [
    ("main", "train, or evaluate with test_only=True (the default command)"),
    (
        "print_config",
        "print the configuration; * marks what differs from the base",
    ),
    ("print_named_configs", "print the named configs and what they set"),
    (
        "save_config",
        "write the configuration to config.json, or to config_filename=PATH",
    ),
    ("help", "explain all keys, or one key or named config"),
];

/// The parsed command line.
#[derive(Debug, PartialEq)]
struct Request<'a> {
    command: &'a str,
    /// The word after `help`.
    topic: Option<&'a str>,
    /// The words after `with`: `KEY=VALUE`, named configs and files.
    updates: Vec<&'a str>,
    /// Whether the configuration is printed before the run (`-p`).
    print_first: bool,
}

/// Runs the command.
pub fn run(args: &Run) -> Result<(), Failure> {
    quiet_other_ranks();
    let request = parse(&args.words)?;
    match request.command {
        "help" => print_help(request.topic),
        "print_named_configs" => print(&vlct_config::named_configs()),
        "print_config" => {
            let (config, local) = resolve(&request.updates)?;
            print(&config.print())?;
            // An invalid configuration is printed too, so that users can find the error.
            let error = match spec::validate(&local) {
                Ok(warnings) => {
                    warnings.iter().for_each(|warning| warn!("{warning}"));
                    RunSpec::resolve(&local).err().map(|e| e.to_string())
                }
                Err(e) => Some(e.to_string()),
            };
            if let Some(error) = error {
                info!("note: a run would fail: {error}");
            }
            Ok(())
        }
        "save_config" => {
            let sets_filename = |update: &&str| {
                update
                    .split_once('=')
                    .is_some_and(|(k, _)| k.trim() == "config_filename")
            };
            let (filename_updates, updates): (Vec<&str>, Vec<&str>) =
                request.updates.iter().partition(|update| sets_filename(update));
            let filename = filename_updates
                .last()
                .and_then(|u| u.split_once('='))
                .map_or("config.json", |(_, filename)| filename.trim());
            save_config(&resolve(&updates)?.0, Path::new(filename))
        }
        _ => {
            let (config, local) = resolve(&request.updates)?;
            if request.print_first {
                print(&config.print())?;
            }
            train_or_evaluate(&local)
        }
    }
}

fn train_or_evaluate(config: &Config) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let place = Place::find(config)?;
    // A wrong configuration is an error before other ranks are started.
    spec::validate_of_ranks(config, place.ranks())?;
    let device = place.device();
    let ranks = place.join(&signals)?;
    let is_first = ranks.is_first();
    let control = Control {
        stop: signals.stop_flag(),
        progress: is_first,
        run_directory: None,
        device,
    };
    let result = trainer::run_rank(config, &control, ranks.collectives());
    let result = ranks.finish(result, |error| Failure::Failed(with_hint(error)))?;
    if config.test_only && !result.interrupted && is_first {
        for (name, value) in &result.metrics {
            print(&format!("{name} {value}\n"))?;
        }
    }
    check_interruption(&result, &signals)
}

/// Returns the configuration, with the sizes of the model that it begins with, as it is given and with local paths instead of references;
/// and logs notes.
fn resolve(updates: &[&str]) -> Result<(Config, Config), Failure> {
    let Resolved { mut config, mut notes } = vlct_config::resolve(updates)?;
    let given = config.clone();
    let has_references = references::resolve_config(&mut config)?;
    let sizes = vlct_fit::take_sizes(&mut config, updates)?;
    if !sizes.is_empty() {
        notes.push(format!("as in the model of load_path: {sizes}"));
    }
    notes.iter().for_each(|note| info!("note: {note}"));
    let mut printed = config.clone();
    if has_references {
        (printed.load_path, printed.pretrain_path) = (given.load_path, given.pretrain_path);
        printed.resume_from = given.resume_from;
    }
    Ok((printed, config))
}

fn save_config(config: &Config, path: &Path) -> Result<(), Failure> {
    let text = match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => format!("{:#}\n", config.to_json()),
        Some("toml") => config.to_toml(),
        _ => {
            let reason =
                "a run reads configurations from .json and .toml files; give config_filename one of these extensions";
            return Err(Failure::Failed(format!("{}: {reason}", path.display())));
        }
    };
    if path.is_file() && vlct_config::resolve(&[path.to_string_lossy()]).is_err() {
        let reason = "the file exists and is not a configuration; give config_filename another name";
        return Err(Failure::Failed(format!("{}: {reason}", path.display())));
    }
    atomic::write(path, |out| out.write_all(text.as_bytes())).map_err(at::<IoError>(path))?;
    print(&format!("saved {}\n", path.display()))
}

fn print_help(topic: Option<&str>) -> Result<(), Failure> {
    match topic {
        None => {
            let names: Vec<&str> = NAMED_CONFIGS.iter().map(|named| named.name).collect();
            print(&format!(
                "Keys, set by KEY=VALUE after `with` (base value, type, range):\n\n{}\nNamed configs (`vlct run help NAME` \
                 explains one):\n  {}\n",
                vlct_config::help(),
                names.join("\n  ")
            ))
        }
        Some(word) => match COMMANDS.iter().find(|(name, _)| *name == word) {
            Some((name, meaning)) => print(&format!("{name}: {meaning}\n")),
            None => print(&vlct_config::help_about(word)?),
        },
    }
}

/// Parses `[COMMAND] [with UPDATE...]`. Options may be at any position.
fn parse<S: AsRef<str>>(words: &[S]) -> Result<Request<'_>, Failure> {
    let mut request = Request {
        command: "main",
        topic: None,
        updates: Vec::new(),
        print_first: false,
    };
    let (mut command_given, mut after_with) = (false, false);
    for word in words {
        match word.as_ref() {
            "-h" | "--help" => {
                return Ok(Request {
                    command: "help",
                    topic: None,
                    updates: Vec::new(),
                    print_first: false,
                });
            }
            "-p" | "--print_config" | "--print-config" => request.print_first = true,
            option if option.starts_with('-') => {
                let hint = match option.trim_start_matches('-').split_once('=') {
                    Some((key, value)) => format!("keys are set without dashes, after `with`: {key}={value}"),
                    None => "the options are -p and -h".into(),
                };
                return Err(Failure::Usage(format!("unknown option {option}: {hint}")));
            }
            update if after_with => request.updates.push(update),
            "with" => after_with = true,
            word if request.command == "help" && request.topic.is_none() => request.topic = Some(word),
            word if command_given => {
                return Err(Failure::Usage(format!(
                    "unexpected {word:?} before `with`: {}",
                    suggestion(word)
                )));
            }
            word if COMMANDS.iter().any(|(name, _)| *name == word) => {
                request.command = word;
                command_given = true;
            }
            word => {
                return Err(Failure::Usage(format!(
                    "unknown command {word:?}: {}",
                    suggestion(word)
                )));
            }
        }
    }
    Ok(request)
}

/// Returns a hint for a word that is not a command.
fn suggestion(word: &str) -> String {
    let is_update = word.contains('=') || word.ends_with(".json") || word.ends_with(".toml");
    if is_update || NamedConfig::find(word).is_some() || Key::find(word).is_some() {
        return format!("updates come after `with`, as in vlct run with {}", shell_word(word));
    }
    let names = COMMANDS.map(|(name, _)| name);
    format!("the commands are {}; updates come after `with`", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&'static str]) -> Request<'static> {
        let words: &'static [&'static str] = words.to_vec().leak();
        parse(words).unwrap_or_else(|e| panic!("{words:?}: {e:?}"))
    }

    #[test]
    fn parses_commands_updates_and_options() {
        let r = request(&[]);
        assert_eq!((r.command, r.updates.len()), ("main", 0));
        let r = request(&["with", "a=1", "step25k", "-p"]);
        assert_eq!(
            (r.command, r.updates, r.print_first),
            ("main", vec!["a=1", "step25k"], true)
        );
        let r = request(&["print_config", "with", "help", "with"]);
        assert_eq!((r.command, r.updates), ("print_config", vec!["help", "with"]));
        let r = request(&["help", "seed"]);
        assert_eq!((r.command, r.topic), ("help", Some("seed")));
        assert_eq!(request(&["print_config", "-h"]).command, "help");
    }

    #[test]
    fn wrong_usage_gets_a_hint() {
        for (words, part) in [
            (&["print_confg"][..], "the commands are main, print_config"),
            (&["batch_size=3"], "vlct run with batch_size=3"),
            (&["step25k", "with"], "vlct run with step25k"),
            (&["print_config", "seed=1"], "vlct run with seed=1"),
            (&["with", "--seed=1"], "without dashes, after `with`: seed=1"),
            (&["-F", "x"], "the options are -p and -h"),
        ] {
            match parse(words) {
                Err(Failure::Usage(message)) => assert!(message.contains(part), "{words:?}: {message}"),
                other => panic!("{words:?}: {other:?}"),
            }
        }
    }
}
