//! Completion: the shell's script calls this program, which asks the engine for names.
//!
//! Guarantees: no engine is started, nothing is asked of the user, nothing is said on stderr; whatever goes wrong is an
//! empty list, within [`LIMIT`].
mod cache;

use crate::{
    args::{Cli, Global},
    client::{Client, Start},
    cmd::{list, revisions},
    failure::Failure,
    parse, paths, reasons, render,
};
use clap::{ArgMatches, Command, CommandFactory};
use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCandidates, CompletionCandidate},
    env::Shells,
};
use std::{env, ffi::OsString, path::PathBuf, process::ExitCode, time::Duration};
use syp_proto::{
    google::longrunning::{ListOperationsRequest, operations_client::OperationsClient},
    v1::{
        Instance, ListProvidersRequest, ListTokensRequest, access_client::AccessClient, instance::State,
        providers_client::ProvidersClient,
    },
};

/// The variable with which the script calls us; its value is the shell.
const VAR: &str = "SYPCTL_COMPLETE";
/// Whoever presses a key does not wait longer.
const LIMIT: Duration = Duration::from_millis(500);

/// A candidate and what is known of it.
type Word = (String, String);

/// Answers a shell; `None`: this is no call of a shell.
pub fn answer() -> Option<ExitCode> {
    env::var_os(VAR).filter(|v| !v.is_empty())?;
    let here = env::current_dir().ok();
    match CompleteEnv::with_factory(command).var(VAR).try_complete(env::args_os(), here.as_deref()) {
        Ok(true) => Some(ExitCode::SUCCESS),
        Ok(false) => None,
        Err(_) => Some(ExitCode::FAILURE),
    }
}

/// The script that a shell reads.
///
/// # Errors
/// For a shell that we don't know.
pub fn script(shell: &str) -> Result<String, Failure> {
    let shells = Shells::builtins();
    let known = shells
        .completer(shell)
        .ok_or_else(|| Failure::usage(format!("completion for '{shell}' is not known")))?;
    let mut out = Vec::new();
    known.write_registration(VAR, "sypctl", "sypctl", &own_path(), &mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

/// As we were called: a plain name is looked up in PATH again, a path is made whole.
fn own_path() -> String {
    let called = PathBuf::from(env::args_os().next().unwrap_or_else(|| "sypctl".into()));
    let whole = if called.components().count() > 1 { std::path::absolute(&called) } else { Ok(called) };
    whole.map_or_else(|_| "sypctl".to_owned(), |p| p.to_string_lossy().into_owned())
}

// === which argument gets which names ===

/// The command line with live names at its arguments; what is called `name` is an instance.
fn command() -> Command {
    named(Cli::command(), "")
}

fn named(c: Command, path: &str) -> Command {
    // in place: taken out and put back, a positional argument would be the last
    let c = c.mut_args(|a| match names_for(path, a.get_id().as_str()) {
        Some(names) => a.add(names),
        None => a,
    });
    let below: Vec<_> = c.get_subcommands().map(|s| s.get_name().to_owned()).collect();
    below.into_iter().fold(c, |c, name| {
        let path = format!("{path} {name}");
        c.mut_subcommand(name, |s| named(s, path.trim_start()))
    })
}

fn names_for(path: &str, arg: &str) -> Option<ArgValueCandidates> {
    Some(match (path, arg) {
        ("up", "name") => return None,
        // what is told of the past is told of the destroyed too
        ("audit" | "cost" | "events" | "op ls" | "receipt" | "show" | "access history", "name") => {
            live("all-instances", |l| Box::pin(l.instances(true)))
        }
        (_, "name" | "names" | "instance") => live("instances", |l| Box::pin(l.instances(false))),
        (_, "project") => live("projects", |l| Box::pin(l.projects())),
        ("rollback", "revision") => live("revisions", |l| Box::pin(l.revisions())),
        ("token revoke", "ids") => live("tokens", |l| Box::pin(l.tokens())),
        (_, "op") => live("operations", |l| Box::pin(l.operations())),
        ("up", "on") | ("sweep", "provider") | ("provider check", "target") => {
            live("targets", |l| Box::pin(l.targets()))
        }
        ("explain", "reason") => fixed(|| {
            let page = |(r, p): &(&str, &str)| ((*r).to_owned(), reasons::summary(r, p));
            reasons::PAGES.iter().map(page).collect()
        }),
        ("wait", "until") => fixed(|| {
            let states = ["provisioning", "serving", "draining", "destroyed"].map(|s| format!("state={s}"));
            let more = ["deleted", "condition=Ready"].map(str::to_owned);
            states.into_iter().chain(more).map(|w| (w, String::new())).collect()
        }),
        _ => return None,
    })
}

fn fixed(words: fn() -> Vec<Word>) -> ArgValueCandidates {
    ArgValueCandidates::new(move || candidates(words()))
}

fn candidates(words: Vec<Word>) -> Vec<CompletionCandidate> {
    let one = |(word, help): Word| {
        CompletionCandidate::new(word).help(Some(help).filter(|h| !h.is_empty()).map(Into::into))
    };
    words.into_iter().map(one).collect()
}

// === what is asked of the engine ===

type Asking<'a> = futures_util::future::LocalBoxFuture<'a, Result<Vec<Word>, Failure>>;

fn live(what: &'static str, ask: for<'a> fn(&'a Line) -> Asking<'a>) -> ArgValueCandidates {
    ArgValueCandidates::new(move || {
        let Some(line) = Line::read() else { return vec![] };
        let key = line.key(what);
        let words = cache::get(&line.data_dir, &key).or_else(|| {
            let words = line.ask(ask)?;
            cache::put(&line.data_dir, key, &words);
            Some(words)
        });
        candidates(words.unwrap_or_default())
    })
}

/// The line as far as it is written.
struct Line {
    global: Global,
    data_dir: PathBuf,
    instance: Option<String>,
}

// === impl Line ===

impl Line {
    fn read() -> Option<Self> {
        let words = env::args_os().skip_while(|w| w != "--").skip(1);
        Self::of(words.collect())
    }

    fn of(words: Vec<OsString>) -> Option<Self> {
        let read = Cli::command().ignore_errors(true).try_get_matches_from(words).ok()?;
        // one by one: a word that is not finished yet must not take the others along
        let path = |k| read.try_get_one::<PathBuf>(k).ok().flatten().cloned();
        let text = |k| read.try_get_one::<String>(k).ok().flatten().cloned();
        let global = Global {
            server: text("server"),
            ca_file: path("ca_file"),
            data_dir: path("data_dir"),
            project: text("project").unwrap_or_else(|| "default".into()),
            timeout: Some(LIMIT),
            quiet: true,
            ..Global::default()
        };
        let global = global.or_earlier_names();
        let data_dir = paths::data_dir(global.data_dir.as_deref()).ok()?;
        Some(Self { global, data_dir, instance: name_in(&read) })
    }

    /// Whose names they are: what is kept for one server or project is not for another.
    fn key(&self, what: &str) -> String {
        let server = self.global.server.as_deref().unwrap_or_default();
        format!("{what} {server} {} {}", self.global.project, self.instance.as_deref().unwrap_or_default())
    }

    fn ask(&self, f: for<'a> fn(&'a Self) -> Asking<'a>) -> Option<Vec<Word>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let words = runtime.block_on(async { tokio::time::timeout(LIMIT, f(self)).await });
        // a name server that is still being asked must not hold us
        runtime.shutdown_background();
        words.ok()?.ok()
    }

    async fn client(&self) -> Result<Client, Failure> {
        Client::open(&self.global, Start::Never).await
    }

    async fn list(&self, project: &str, destroyed: bool) -> Result<Vec<Instance>, Failure> {
        let all =
            list(&self.client().await?, format!("projects/{project}"), String::new(), destroyed).await?;
        Ok(all.instances)
    }

    async fn instances(&self, destroyed: bool) -> Result<Vec<Word>, Failure> {
        let mut all = self.list(&self.global.project, destroyed).await?;
        // one that lives stands for its name
        all.sort_by_key(|i| (i.name.clone(), i.state() == State::Destroyed));
        let mut words: Vec<_> = all.iter().map(instance).collect();
        words.dedup_by(|later, first| later.0 == first.0);
        Ok(words)
    }

    async fn projects(&self) -> Result<Vec<Word>, Failure> {
        let all = self.list("-", false).await?;
        let mut out: Vec<_> =
            all.iter().filter_map(|i| i.name.split('/').nth(1)).map(str::to_owned).collect();
        out.sort();
        out.dedup();
        Ok(out.into_iter().map(|p| (p, String::new())).collect())
    }

    async fn revisions(&self) -> Result<Vec<Word>, Failure> {
        let Some(name) = &self.instance else { return Ok(vec![]) };
        let client = self.client().await?;
        let all = revisions::all(&client, parse::full_name(&self.global.project, name)).await?;
        Ok(all.instance_revisions.iter().map(|r| (last(&r.name), revisions::state(r))).collect())
    }

    async fn tokens(&self) -> Result<Vec<Word>, Failure> {
        let client = self.client().await?;
        let mut out = Vec::new();
        for parent in [String::new(), format!("projects/{}", self.global.project)] {
            let ask = ListTokensRequest { parent, page_size: 1000, without_uses: true, ..Default::default() };
            let page =
                client.call(ask, |ch, r| async move { AccessClient::new(ch).list_tokens(r).await }).await;
            // operators of an instance see its tokens, not those of the engine
            let tokens = page.map(|p| p.tokens).unwrap_or_default();
            out.extend(tokens.iter().map(|t| (last(&t.name), t.display_name.clone())));
        }
        Ok(out)
    }

    async fn operations(&self) -> Result<Vec<Word>, Failure> {
        let client = self.client().await?;
        let ask = ListOperationsRequest { name: "operations".into(), page_size: 50, ..Default::default() };
        let page = client
            .call(ask, |ch, r| async move { OperationsClient::new(ch).list_operations(r).await })
            .await?;
        let known = page.operations.iter().map(|o| (last(&o.name), String::new()));
        Ok(self.instances(true).await?.into_iter().chain(known).collect())
    }

    async fn targets(&self) -> Result<Vec<Word>, Failure> {
        let ask = ListProvidersRequest::default();
        let all = self
            .client()
            .await?
            .call(ask, |ch, r| async move { ProvidersClient::new(ch).list_providers(r).await })
            .await?;
        Ok(all.providers.iter().map(|p| (last(&p.name), String::new())).collect())
    }
}

/// The instance that is named on the line, of whatever command.
fn name_in(read: &ArgMatches) -> Option<String> {
    let (_, below) = read.subcommand()?;
    let named = ["name", "instance"].into_iter().find_map(|k| below.try_get_one::<String>(k).ok().flatten());
    named.cloned().or_else(|| name_in(below))
}

fn instance(i: &Instance) -> Word {
    (parse::short_name(&i.name).to_owned(), render::state(i.state).to_owned())
}

fn last(name: &str) -> String {
    name.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &str) -> Line {
        Line::of(words.split(' ').map(Into::into).collect()).expect("a line")
    }

    #[test]
    fn a_half_written_line_says_whose_names_are_wanted() {
        let l = line("sypctl --data-dir /d rollback shop --project team ");
        assert_eq!((l.instance.as_deref(), l.global.project.as_str()), (Some("shop"), "team"));
        assert_eq!(l.data_dir, PathBuf::from("/d"));
        assert_eq!(line("sypctl show sh").instance.as_deref(), Some("sh"));
        assert_eq!(line("sypctl rollback ").instance, None);
        assert_eq!(line("sypctl show x --project ").global.project, "default");
        assert_eq!(line("sypctl token create shop --na").instance.as_deref(), Some("shop"));
        assert_ne!(line("sypctl --project a show x").key("i"), line("sypctl --project b show x").key("i"));
    }

    #[test]
    fn every_shell_of_the_help_has_a_script() {
        use clap::ValueEnum;
        for s in clap_complete::Shell::value_variants() {
            let script = script(&s.to_string()).expect("a script");
            assert!(script.contains(VAR), "{s}: {script}");
        }
    }

    #[test]
    fn arguments_have_their_names() {
        for (path, arg) in [
            ("show", "name"),
            ("down", "names"),
            ("rollback", "revision"),
            ("token revoke", "ids"),
            ("token create", "instance"),
            ("op watch", "op"),
            ("access deny", "name"),
            ("wait", "until"),
            ("up", "on"),
            ("explain", "reason"),
            ("", "project"),
        ] {
            let all = command();
            let c = path.split_whitespace().fold(&all, |c, p| c.find_subcommand(p).expect(path));
            let arg = c.get_arguments().find(|a| a.get_id() == arg).unwrap_or_else(|| panic!("{path} {arg}"));
            assert!(arg.get::<ArgValueCandidates>().is_some(), "{path} {arg}");
        }
    }

    #[test]
    fn without_an_engine_there_is_nothing_and_nothing_is_made() {
        let d = tempfile::tempdir().unwrap();
        let place = d.path().join("none");
        let l = line(&format!("sypctl --data-dir {} show", place.display()));
        assert_eq!(l.ask(|l| Box::pin(l.instances(false))), None);
        cache::put(&l.data_dir, "k".into(), &[]);
        assert!(!place.exists());
    }
}
