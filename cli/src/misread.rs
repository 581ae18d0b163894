//! Words of the command line that can't be read: what is wrong, why, and where the right form stands.
use crate::{args::Cli, exit, failure::Failure, output};
use clap::{
    CommandFactory, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{io::IsTerminal as _, process::ExitCode};

/// Help and version are data; wrong words are a failure like every other: for people on a terminal, JSON elsewhere.
pub fn tell(e: Error) -> ExitCode {
    let e = without_secrets(e);
    if !e.use_stderr() || std::io::stderr().is_terminal() {
        e.exit();
    }
    output::Out::new(output::Format::Table, false).failure(&failure(&e));
    ExitCode::from(exit::USAGE)
}

/// The value of a secret must not be repeated: what is on stderr is kept in logs.
fn without_secrets(mut e: Error) -> Error {
    let of_secret = text(&e, ContextKind::InvalidArg).is_some_and(|a| a.starts_with("--secret"));
    if let Some(value) = text(&e, ContextKind::InvalidValue).filter(|_| of_secret) {
        let shown = value.split_once('=').map_or_else(|| "...".to_owned(), |(name, _)| format!("{name}=..."));
        e.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    }
    e
}

fn failure(e: &Error) -> Failure {
    let here = path();
    let given = |k| text(e, k).unwrap_or_default();
    let what = match e.kind() {
        ErrorKind::InvalidSubcommand => {
            format!("'{here}' has no command '{}'", given(ContextKind::InvalidSubcommand))
        }
        ErrorKind::UnknownArgument => match given(ContextKind::InvalidArg) {
            flag if flag.starts_with('-') => format!("'{here}' has no flag '{flag}'"),
            word => format!("'{here}' takes no further word, and '{word}' is one"),
        },
        ErrorKind::MissingRequiredArgument => {
            format!("'{here}' needs {}", given(ContextKind::InvalidArg))
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            format!("'{here}' needs a command")
        }
        ErrorKind::InvalidValue if !given(ContextKind::ValidValue).is_empty() => format!(
            "'{}' can't be {}: it is one of {}",
            given(ContextKind::InvalidValue),
            given(ContextKind::InvalidArg),
            given(ContextKind::ValidValue)
        ),
        _ => first_part(e),
    };
    let near = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    let near: Vec<_> = near.into_iter().filter_map(|k| text(e, k)).collect();
    let next = match near.first() {
        Some(word) => format!("perhaps '{word}'; {}", help()),
        None => help(),
    };
    Failure::new(exit::USAGE, "INVALID_ARGUMENT", what, next)
}

/// What clap says, without usage and tips.
fn first_part(e: &Error) -> String {
    let text = e.render().to_string();
    let text = text.trim_start_matches("error: ");
    text.split("\n\n").next().unwrap_or_default().trim().to_owned()
}

fn text(e: &Error, kind: ContextKind) -> Option<String> {
    match e.get(kind)? {
        ContextValue::String(s) => Some(s.clone()),
        ContextValue::Strings(all) if !all.is_empty() => Some(all.join(", ")),
        _ => None,
    }
}

/// Where the right form stands, of the command that was given.
pub fn help() -> String {
    format!("'{} --help' has the forms and examples", path())
}

/// The command that was given, as far as it is one.
fn path() -> String {
    path_of(std::env::args().skip(1))
}

fn path_of(words: impl Iterator<Item = String>) -> String {
    let all = Cli::command();
    let (mut c, mut path) = (&all, "sypctl".to_owned());
    for w in words.take_while(|w| w != "--") {
        if let Some(s) = c.find_subcommand(&w) {
            path = format!("{path} {}", s.get_name());
            c = s;
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn said(words: &str) -> String {
        let e = Cli::try_parse_from(words.split(' ')).map(drop).expect_err(words);
        failure(&without_secrets(e)).text()
    }

    #[test]
    fn what_why_and_next_are_said() {
        for (words, parts) in [
            ("sypctl shwo", &["has no command 'shwo'", "perhaps 'show'"][..]),
            ("sypctl up x --image y --prot 1", &["has no flag '--prot'", "perhaps '--port'"]),
            ("sypctl show a b", &["no further word, and 'b' is one"]),
            ("sypctl up", &["needs --image <IMAGE>, <NAME>"]),
            ("sypctl op", &["needs a command"]),
            (
                "sypctl ls --state gone",
                &["'gone' can't be --state <STATE>: it is one of pending, provisioning"],
            ),
            ("sypctl up x --image y --port eighty", &["'eighty'", "a port from 1 to 65534"]),
        ] {
            let text = said(words);
            for p in parts.iter().chain(&["reason: INVALID_ARGUMENT", "--help' has the forms and examples"]) {
                assert!(text.contains(p), "{words}: expected '{p}' in {text}");
            }
            assert!(!text.contains("Usage:"), "{text}");
        }
    }

    #[test]
    fn a_secret_that_was_given_in_the_wrong_place_is_not_repeated() {
        for words in ["sypctl up x --image y --secret P=hunter2", "sypctl set x --secret-file /p=hunter2"] {
            let e = Cli::try_parse_from(words.split(' ')).map(drop).expect_err(words);
            let shown = without_secrets(e).render().to_string();
            assert!(!shown.contains("hunter2") && shown.contains("=..."), "{shown}");
        }
    }

    #[test]
    fn the_command_is_found_among_its_words() {
        let path = |words: &str| path_of(words.split(' ').map(str::to_owned));
        assert_eq!(path("--project x token create shop"), "sypctl token create");
        assert_eq!(path("curl shop -- show"), "sypctl curl");
        assert_eq!(path("nonsense"), "sypctl");
    }
}
