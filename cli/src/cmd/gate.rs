//! `sypctl gate`: the gate's image, put where the nodes of a cluster can pull it.
use super::Ctx;
use crate::{
    client::VERSION,
    exit,
    failure::{Done, Failure},
    http, server,
};
use serde_json::json;
use std::time::Duration;
use syp_proto::journal;
use syp_steps::registry::{self, Image, Options, Place, Pushed};

/// A registry that says nothing for so long says nothing any more.
const SILENCE: Duration = Duration::from_secs(120);

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Put the gate's image into a registry and print its name by digest. Docker is not needed
    #[command(
        after_help = "Examples:\n  sypctl gate push registry.example.com/team/syp-gate\n  export SYP_GATE_IMAGE=$(sypctl gate push registry.example.com/team/syp-gate)\n  sypctl gate push localhost:5000/syp-gate:dev -o json\n\nThe image is made of the program 'syp-gate' beside sypctl (or where SYP_GATE says), which must be static; the same program is\nalways the same image, and what the registry has is not sent again. The login is the one of 'docker login REGISTRY'; without one it is\ntried without. The nodes must be able to pull it from there."
    )]
    Push(Push),
}

/// Where to.
#[derive(Debug, clap::Args)]
pub struct Push {
    /// `REGISTRY/NAME[:TAG]`; the tag is this version's when there is none
    #[arg(value_name = "REGISTRY/NAME[:TAG]", value_parser = place)]
    place: Place,
    /// Speak plain HTTP to it; on this machine (localhost) that is found out
    #[arg(long)]
    plain_http: bool,
    /// Only say what would be sent, and the name that it would have
    #[arg(long)]
    plan: bool,
}

fn place(text: &str) -> Result<Place, String> {
    Place::parse(text, VERSION)
}

/// Runs it.
///
/// # Errors
/// What is wrong with the binary, or what the registry has against it.
pub async fn run(ctx: &Ctx<'_>, c: Command) -> Done {
    let Command::Push(a) = c;
    let image = Image::read(&server::gate_binary()?).map_err(of)?;
    let by_tag = a.place.by_tag();
    let options = Options {
        credentials: registry::credentials(&by_tag).await,
        plain_http: a.plain_http,
        authorities: ctx.global.ca_file.as_deref().map(http::authorities).transpose()?.unwrap_or_default(),
        limit: ctx.global.timeout.unwrap_or(SILENCE),
        plan: a.plan,
    };
    let tell = |part| ctx.out.note(format!("{}: {part}", a.place.registry()));
    let pushed = registry::push(&a.place, &image, &options, tell).await.map_err(of)?;
    let name = a.place.by_digest(&image.digest());
    if a.plan {
        ctx.out.note(planned(&by_tag, &image.platform(), pushed));
    } else {
        ctx.out.note(told(&by_tag, &image.platform(), pushed));
        ctx.out.note(next(&name));
    }
    let all = json!({
        "image": name, "tag": by_tag, "digest": image.digest(), "platform": image.platform(),
        (if a.plan { "bytesToSend" } else { "sentBytes" }): pushed.bytes,
    });
    ctx.out.summary(&all, &name, &name)?;
    Ok(exit::OK)
}

fn told(by_tag: &str, platform: &str, pushed: Pushed) -> String {
    match pushed {
        Pushed { tagged: false, .. } => {
            format!("{by_tag} is this gate already ({platform}): nothing was sent")
        }
        Pushed { bytes: 0, .. } => {
            format!("{by_tag} is this gate now ({platform}); the registry had its parts")
        }
        Pushed { .. } => format!("{by_tag} is this gate now ({platform})"),
    }
}

fn planned(by_tag: &str, platform: &str, pushed: Pushed) -> String {
    match pushed {
        Pushed { tagged: false, .. } => format!("{by_tag} is this gate already ({platform})"),
        Pushed { bytes, .. } => {
            let kb = bytes.div_ceil(1000);
            format!("{by_tag} would become this gate ({platform}), with {kb} kB to send; nothing was sent")
        }
    }
}

fn next(name: &str) -> String {
    format!(
        "next: export SYP_GATE_IMAGE={name}, and 'sypctl server stop' where an engine runs (it is read when one starts; instances go on serving). \
         In the cluster: helm upgrade ... --set gateImage={name}"
    )
}

fn of(f: journal::Failure) -> Failure {
    Failure::new(exit::of_call(tonic::Code::Unknown, &f.reason), &f.reason, f.message, f.hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_whether_anything_was_sent() {
        let says = |bytes, tagged| told("r.example.com/gate:1", "linux/amd64", Pushed { bytes, tagged });
        assert!(says(0, false).ends_with("nothing was sent"));
        assert!(says(0, true).ends_with("had its parts"));
        assert_eq!(says(9, true), "r.example.com/gate:1 is this gate now (linux/amd64)");
    }

    #[test]
    fn a_registry_that_does_not_answer_is_no_failure_of_the_image() {
        let code = |reason: &str| of(journal::Failure { reason: reason.into(), ..Default::default() }).exit();
        assert_eq!(code("REGISTRY_UNREACHABLE"), exit::UNAVAILABLE);
        assert_eq!((code("REGISTRY_REFUSED"), code("IMAGE_AUTH_FAILED"), code("GATE_BINARY")), (1, 1, 1));
    }
}
