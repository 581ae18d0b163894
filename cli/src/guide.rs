//! Every `sypctl ...` that README, guide and examples show is a line that this version understands.
use crate::args::Cli;
use clap::{
    Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The documents for users.
fn documents() -> Vec<PathBuf> {
    let mut out = vec![root().join("README.md")];
    let mut open = vec![root().join("docs"), root().join("examples"), root().join("cli/src/reasons")];
    while let Some(dir) = open.pop() {
        for path in fs::read_dir(dir).unwrap().flatten().map(|e| e.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                if !["node_modules", ".venv", "target"].contains(&name.as_str()) {
                    open.push(path);
                }
            } else if name.ends_with(".md") && name != "wrong-inputs.md" {
                out.push(path);
            }
        }
    }
    out.sort();
    out
}

/// Lines with a command: of blocks as they are, of sentences what stands between backquotes.
fn commands(text: &str) -> Vec<(String, bool)> {
    let (mut out, mut block) = (Vec::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            block = !block;
        } else if block || line.starts_with("    ") {
            let line = line.trim().trim_start_matches("$ ");
            out.extend(line.split(" && ").flat_map(|l| l.split(" | ")).map(|l| (l.trim().to_owned(), true)));
        } else {
            out.extend(line.split('`').skip(1).step_by(2).map(|l| (l.to_owned(), false)));
        }
    }
    out.retain(|(l, _)| l.starts_with("sypctl ") || l.contains("$(sypctl ") || l.contains("=... sypctl "));
    out
}

/// The words of a line, with something that fits in the place of what the reader fills in.
fn words(line: &str) -> Option<Vec<String>> {
    let line = match line.find("$(sypctl ").or_else(|| line.find("<(sypctl ")) {
        Some(at) => line[at + 2..].split(')').next().unwrap_or_default(),
        None => &line[line.find("sypctl ")?..],
    };
    let all = shlex::split(line)?;
    let all =
        all.into_iter().take_while(|w| ![">", "|", "2>&1"].contains(&w.as_str())).filter(|w| w != "...");
    Some(all.map(|w| filled(&w)).collect())
}

fn filled(word: &str) -> String {
    let word = word.trim_start_matches('[').trim_end_matches(']').trim_end_matches("...");
    match word {
        "NAME" | "INSTANCE" | "NEW" | "OLD" => "shop".into(),
        "NAME@UID" => "shop@0af3".into(),
        "COMMAND" => "ls".into(),
        "I" | "IMAGE" => "nginx".into(),
        "P" | "PORT" => "80".into(),
        "N" => "2".into(),
        "STATE" | "S" => "serving".into(),
        "MEMBER" | "MEMBERS" | "user:YOU" | "user:ADDRESS" => "user:a@x.org".into(),
        "REASON" => "CRASH_LOOP".into(),
        "SHELL" => "bash".into(),
        "ROLE" => "viewer".into(),
        "TIME" => "1h".into(),
        "ADDR:PORT" => "127.0.0.1:8080".into(),
        "URL" | "ORIGIN" => "https://x.example.com".into(),
        "/PATH" => "/a".into(),
        "REGISTRY/NAME" => "registry.example.com/gate".into(),
        other => other.replace("HOST:", "host:").replace("REGISTRY/", "registry.example.com/"),
    }
}

#[test]
fn what_the_guide_says_can_be_said() {
    let (mut seen, mut wrong) = (0, Vec::new());
    for file in documents() {
        let text = fs::read_to_string(&file).unwrap();
        for (line, whole) in commands(&text) {
            let Some(words) = words(&line) else {
                wrong.push(format!("{}: {line}: can't be split", file.display()));
                continue;
            };
            seen += 1;
            let Err(e) = Cli::try_parse_from(&words) else { continue };
            // of a command that is only named, words and values may be left out
            let valueless =
                matches!(e.get(ContextKind::InvalidValue), Some(ContextValue::String(v)) if v.is_empty());
            let named = matches!(
                e.kind(),
                ErrorKind::MissingRequiredArgument
                    | ErrorKind::MissingSubcommand
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            ) || valueless;
            let fine = e.kind() == ErrorKind::DisplayHelp || named && !whole;
            if !fine {
                wrong.push(format!("{}: {line}: {e}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(seen > 150, "only {seen} commands were found");
}

#[test]
fn pages_are_linked_and_links_lead_somewhere() {
    let read = |f: &str| fs::read_to_string(root().join(f)).unwrap();
    let readme = read("README.md");
    for page in fs::read_dir(root().join("docs")).unwrap().flatten() {
        let name = page.file_name().to_string_lossy().into_owned();
        assert!(readme.contains(&format!("docs/{name}")), "README does not link docs/{name}");
    }
    for file in documents().into_iter().filter(|f| !f.starts_with(root().join("cli"))) {
        let text = fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1).filter_map(|l| l.split(')').next()) {
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") {
                let there = file.parent().unwrap().join(path).exists();
                assert!(there, "{}: {link} leads nowhere", file.display());
            }
        }
    }
}

#[test]
fn a_line_is_taken_apart_as_a_shell_does() {
    let all = commands("```\n$ sypctl down mine && sypctl receipt mine --verify # x\n```\nsay `sypctl ls`\n");
    assert_eq!(all.len(), 3);
    assert_eq!(words(&all[1].0).unwrap(), ["sypctl", "receipt", "mine", "--verify"]);
    assert_eq!(words("source <(sypctl completion bash)").unwrap(), ["sypctl", "completion", "bash"]);
    assert_eq!(words("sypctl token ls > f").unwrap(), ["sypctl", "token", "ls"]);
    assert_eq!(filled("NAME"), "shop");
}
