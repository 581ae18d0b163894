//! `sypctl man`: a manual page for each command.
use super::Ctx;
use crate::{
    args::Cli,
    exit,
    failure::{Done, Failure},
};
use clap::{Command, CommandFactory};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use std::{fs, io, path::PathBuf};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl man | man -l -\n  sypctl man --dir ~/.local/share/man/man1     (then: man sypctl-up)"
)]
pub struct Args {
    /// Write one page a command into this folder, made if it isn't there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What the environment can say.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("SYPCTL_SERVER", "A server, as --server."),
    ("SYPCTL_TOKEN", "A token of your own in place of a login; without a server, a machine token."),
    ("SYPCTL_OUTPUT", "How data is printed, as --output."),
    ("SYPCTL_NO_PROMPT", "Set to anything: nothing is asked."),
    ("SYP_DATA_DIR", "The local engine's data, as --data-dir."),
    ("SYP_METRICS_LISTEN", "Of the engine: where Prometheus may ask, as --metrics-listen."),
    ("KUBECONFIG", "Of the engine: the clusters that --on k8s:CONTEXT can name, instead of ~/.kube/config."),
    ("SYP_GATE_IMAGE", "Of the engine: where the nodes of a cluster pull the gate's image."),
    (
        "SYP_KIND_INGRESS_IMAGE",
        "Of the engine: an image for the ingress controller of --on kind-ingress, instead of Traefik's.",
    ),
    (
        "SYP_KIND_NODE_IMAGE",
        "Of the engine: an image for the nodes of the cluster of --on kind, instead of kind's own.",
    ),
    ("SYP_DOCKER_POOL", "Of the engine: the addresses from which instances get their networks."),
    (
        "SYP_GATE",
        "Of the engine and of 'gate push': the gate's program, where it does not lie beside sypctl.",
    ),
    ("DOCKER_HOST", "Of the engine: the Docker engine to use."),
    (
        "HTTPS_PROXY, HTTP_PROXY, NO_PROXY, https_proxy, http_proxy, no_proxy",
        "Of the engine: how identity providers are reached.",
    ),
    ("PATH", "Where 'doctor' looks for another sypctl."),
    ("OTEL_*", "Of the engine: where traces of operations go, as OpenTelemetry names it."),
    ("NO_COLOR", "Set to anything: no colours."),
    ("XDG_DATA_HOME, HOME", "Where the data lies when nothing says it."),
];

/// What is kept where.
const FILES: &[(&str, &str)] = &[
    ("~/.local/share/syp/store", "The journal and all else that the local engine must remember."),
    ("~/.local/share/syp/engine.key", "The key that seals secrets and signs for gates (0600)."),
    ("~/.local/share/syp/engine.log", "The log of an engine that was started by a command."),
    ("~/.local/share/syp/engine.sock", "Where the local engine answers."),
    ("/var/lib/sypctl", "The data of the service that 'sypctl server install' makes."),
];

/// Runs it.
///
/// # Errors
/// When the folder or a page can't be written.
pub fn run(ctx: &Ctx<'_>, a: &Args) -> Done {
    let pages = pages()?;
    let Some(dir) = &a.dir else {
        let main = pages.iter().find(|p| p.0 == "sypctl.1").map(|p| p.1.as_str());
        ctx.out.data(main.unwrap_or_default());
        return Ok(exit::OK);
    };
    let refused = |what: &std::path::Path, e: io::Error| {
        let said = format!("{} can't be written: {e}", what.display());
        Failure::new(exit::FAILED, "LOCAL_IO", said, "name a folder that you may write to with --dir")
    };
    fs::create_dir_all(dir).map_err(|e| refused(dir, e))?;
    for (name, text) in &pages {
        let file = dir.join(name);
        fs::write(&file, text).map_err(|e| refused(&file, e))?;
    }
    ctx.out.note(format!("{} pages in {}", pages.len(), dir.display()));
    Ok(exit::OK)
}

/// File name and text of every page.
fn pages() -> io::Result<Vec<(String, String)>> {
    let mut all = Cli::command().disable_help_subcommand(true);
    all.build();
    let mut out = Vec::new();
    collect(&all, &mut out)?;
    Ok(out)
}

fn collect(c: &Command, out: &mut Vec<(String, String)>) -> io::Result<()> {
    let visible: Vec<_> = c.get_subcommands().filter(|s| !s.is_hide_set()).collect();
    let page = Man::new(c.clone())
        .manual("Serve Yourself Private")
        .source(format!("sypctl {}", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if !visible.is_empty() {
        page.render_subcommands_section(&mut text)?;
    }
    let help = c.get_after_help().map(ToString::to_string).unwrap_or_default();
    examples(&help).to_writer(&mut text)?;
    if c.get_name() == "sypctl" {
        let codes: Vec<_> = exit::MEANINGS.iter().map(|(n, m)| (n.to_string(), *m)).collect();
        let codes: Vec<_> = codes.iter().map(|(n, m)| (n.as_str(), *m)).collect();
        for (title, rows) in [("EXIT STATUS", &codes[..]), ("ENVIRONMENT", ENVIRONMENT), ("FILES", FILES)] {
            list(title, rows).to_writer(&mut text)?;
        }
    }
    out.push((page.get_filename(), String::from_utf8_lossy(&text).into_owned()));
    visible.into_iter().try_for_each(|s| collect(s, out))
}

/// The part of the help that begins with `Examples:`, as it stands; what follows an empty line is words again.
fn examples(help: &str) -> Roff {
    let mut page = Roff::new();
    let (above, below) = help.split_once("\n\n").unwrap_or((help, ""));
    let Some((_, lines)) = above.split_once(":\n") else { return page };
    page.control("SH", ["EXAMPLES"]).control("nf", []);
    for line in lines.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    // the exit codes have a section of their own
    if !below.is_empty() && !below.starts_with("Exit codes:") {
        page.control("PP", []).text([roman(below.replace('\n', " "))]);
    }
    page
}

fn list(title: &str, rows: &[(&str, &str)]) -> Roff {
    let mut page = Roff::new();
    page.control("SH", [title]);
    for (word, meaning) in rows {
        page.control("TP", []).text([bold(*word)]).text([roman(*meaning)]);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, path::Path};

    fn main_page() -> String {
        pages().unwrap().remove(0).1.replace("\\-", "-").replace("\\*(Aq", "'")
    }

    #[test]
    fn every_command_has_a_page_with_its_parts() {
        fn names(c: &Command, path: &str, out: &mut BTreeSet<String>) {
            out.insert(format!("{path}.1"));
            for s in c.get_subcommands().filter(|s| s.get_name() != "help" && !s.is_hide_set()) {
                names(s, &format!("{path}-{}", s.get_name()), out);
            }
        }
        let mut wanted = BTreeSet::new();
        names(&Cli::command(), "sypctl", &mut wanted);
        let pages = pages().unwrap();
        assert_eq!(pages.iter().map(|p| p.0.clone()).collect::<BTreeSet<_>>(), wanted);
        assert!(wanted.contains("sypctl-token-create.1") && wanted.len() > 50, "{wanted:?}");
        for (name, text) in &pages {
            for part in [".TH ", ".SH NAME\n", ".SH SYNOPSIS\n", ".SH DESCRIPTION\n"] {
                assert!(text.contains(part), "{name} has no {part}: {text}");
            }
            let words = text.lines().filter(|l| !l.starts_with('.')).map(str::len).sum::<usize>();
            assert!(words > 200, "{name} is empty: {text}");
            let known = ["TH", "SH", "PP", "TP", "RS", "RE", "IP", "nf", "fi", "br", "ie", "el"];
            for l in text.lines().filter_map(|l| l.strip_prefix('.')) {
                let m = l.split([' ', '\\']).next().unwrap_or_default();
                assert!(known.contains(&m), "{name}: .{l}");
            }
        }
    }

    #[test]
    fn the_main_page_has_every_exit_code_and_variable() {
        let page = main_page();
        let help = Cli::command().get_after_help().unwrap().to_string();
        for (code, meaning) in exit::MEANINGS {
            assert!(page.contains(&format!(".TP\n\\fB{code}\\fR\n{meaning}\n")), "{code}: {page}");
            assert!(help.split_whitespace().any(|w| w == code.to_string()), "{code} is not in the help");
        }
        // each variable that the sources of this crate ask for
        let mut found = BTreeSet::new();
        asked(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
        assert!(found.len() > 8, "{found:?}");
        for v in found {
            let shown = page.contains(&format!("\\fB{v}\\fR")) || page.contains(&format!(", {v}"));
            assert!(shown, "{v} is not in the page");
        }
        for part in ["EXAMPLES", "EXIT STATUS", "ENVIRONMENT", "FILES", "sypctl-up(1)"] {
            assert!(page.contains(part), "{part}: {page}");
        }
    }

    /// Not for users: earlier names, what desktops set, what only tests set.
    const QUIET: [&str; 7] =
        ["SYP_SERVER", "SYP_TOKEN", "TERM", "DISPLAY", "WAYLAND_DISPLAY", "SYP_CRASH_AT", "SYPCTL_COMPLETE"];

    fn asked(dir: &Path, out: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                asked(&path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]").next().unwrap_or_default();
                let words =
                    ["env::var(\"", "env::var_os(\"", "env = \""].iter().flat_map(|w| text.split(w).skip(1));
                let words = words.filter_map(|w| w.split('"').next());
                out.extend(
                    words.filter(|w| !QUIET.contains(w) && !w.starts_with("OTEL_")).map(str::to_owned),
                );
            }
        }
    }
}
