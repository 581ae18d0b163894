//! Data on stdout, talk on stderr.
use crate::failure::Failure;
use prost::{Message, Name};
use std::io::{self, IsTerminal, Write};

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// proto3 JSON of the API message
    Json,
    /// The same as YAML
    Yaml,
    /// Only names, one a line
    Name,
}

/// Where and how to print.
#[derive(Clone, Debug)]
pub struct Out {
    /// The format of data.
    pub format: Format,
    /// No talk.
    pub quiet: bool,
    /// stderr is a terminal.
    pub live: bool,
    /// Colours on stdout.
    pub colours: bool,
}

// === impl Out ===

impl Out {
    /// For this process.
    pub fn new(format: Format, quiet: bool) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        let colours = io::stdout().is_terminal() && !plain;
        console::set_colors_enabled(colours);
        console::set_colors_enabled_stderr(io::stderr().is_terminal() && !plain);
        Self { format, quiet, live: io::stderr().is_terminal(), colours }
    }

    /// May a question be asked?
    pub fn may_ask(&self) -> bool {
        self.live && io::stdin().is_terminal() && std::env::var_os("SYPCTL_NO_PROMPT").is_none()
    }

    /// Asks on stderr; anything but yes is no.
    pub fn ask(&self, question: &str, default_yes: bool) -> bool {
        let choice = if default_yes { "[Y/n]" } else { "[y/N]" };
        let _ = write!(io::stderr(), "{question} {choice} ");
        let mut answer = String::new();
        if io::stdin().read_line(&mut answer).is_err() {
            return false;
        }
        match answer.trim().to_lowercase().as_str() {
            "" => default_yes && !answer.is_empty(),
            a => matches!(a, "y" | "yes"),
        }
    }

    /// A line of talk.
    pub fn note(&self, text: impl AsRef<str>) {
        talk(self.quiet, text.as_ref());
    }

    /// Data, with a line end. Whoever closed our stdout has seen enough: that is no failure.
    pub fn data(&self, text: impl AsRef<str>) {
        let mut out = io::stdout().lock();
        let sent = writeln!(out, "{}", text.as_ref().trim_end_matches('\n')).and_then(|()| out.flush());
        if sent.is_err() {
            std::process::exit(0);
        }
    }

    /// One document.
    ///
    /// # Errors
    /// When the message can't be printed.
    pub fn document<M: Message + Name>(
        &self,
        message: &M,
        table: impl FnOnce() -> String,
        name: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => table(),
            Format::Name => name(),
            Format::Json | Format::Yaml => self.written(&json(message)?)?,
        };
        if !(text.is_empty() && matches!(self.format, Format::Table | Format::Name)) {
            self.data(text);
        }
        Ok(())
    }

    /// A document that is no message of the API.
    ///
    /// # Errors
    /// When it can't be printed.
    pub fn value(&self, v: &serde_json::Value) -> Result<(), Failure> {
        self.data(self.written(v)?);
        Ok(())
    }

    /// What a command of this program has to tell: a document, words or a name.
    ///
    /// # Errors
    /// When it can't be printed.
    pub fn summary(&self, v: &serde_json::Value, text: &str, name: &str) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.data(text),
            Format::Name => self.data(name),
            Format::Json | Format::Yaml => self.value(v)?,
        }
        Ok(())
    }

    fn written(&self, v: &serde_json::Value) -> Result<String, Failure> {
        if self.format == Format::Yaml {
            return Ok(serde_yaml_ng::to_string(v).map_err(anyhow::Error::from)?);
        }
        Ok(serde_json::to_string_pretty(v).map_err(anyhow::Error::from)?)
    }

    /// One message of a stream: a JSON line, a YAML document, or a line for people.
    ///
    /// # Errors
    /// When the message can't be printed.
    pub fn item<M: Message + Name>(&self, message: &M, line: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.data(json(message)?.to_string()),
            Format::Yaml => self.data(format!("---\n{}", self.written(&json(message)?)?)),
            Format::Table | Format::Name => self.data(line()),
        }
        Ok(())
    }

    /// Prints a failure.
    pub fn failure(&self, f: &Failure) {
        let json = matches!(self.format, Format::Json) || !self.live;
        let text = if json { format!("{}\n", f.json()) } else { f.text() };
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// A line of talk on stderr: words on a terminal, a JSON object elsewhere, so that every line there can be parsed.
pub fn talk(quiet: bool, text: &str) {
    if quiet {
        return;
    }
    let mut err = io::stderr();
    let _ = if err.is_terminal() {
        writeln!(err, "{text}")
    } else {
        writeln!(err, "{}", serde_json::json!({ "note": text }))
    };
}

/// The proto3 JSON of a message.
///
/// # Errors
/// When it holds what this version does not know.
pub fn json<M: Message + Name>(message: &M) -> Result<serde_json::Value, Failure> {
    Ok(syp_proto::to_json(message).map_err(|e| anyhow::anyhow!("the answer can't be printed: {e}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1::Instance;

    #[test]
    fn a_time_that_no_calendar_has_ends_no_program() {
        for seconds in [i64::MAX, i64::MIN, 253_402_300_800] {
            let expire_time = Some(prost_types::Timestamp { seconds, nanos: 0 });
            // it may be refused in words, it may not panic
            let _ = json(&Instance { expire_time, ..Default::default() });
        }
    }
}
