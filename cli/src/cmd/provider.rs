//! `sypctl provider`: the targets that the engine knows, and what an `up` would meet there.
use super::{Ctx, aws::Aws};
use crate::{
    exit,
    failure::{Done, Failure},
    parse, render,
};
use syp_proto::v1::{
    CheckProviderRequest, CheckProviderResponse, InstanceSpec, Kubernetes, ListProvidersRequest, Provider,
    Resources, Scaling,
    check_provider_response::{Finding, Verdict},
    providers_client::ProvidersClient,
};
use tonic::Code;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Targets that the engine knows, and whether they answer
    #[command(
        after_help = "Examples:\n  sypctl provider ls\n  sypctl provider ls -o json\n\nA cluster of the kubeconfig becomes one when somebody names it: 'sypctl provider check k8s:CONTEXT'."
    )]
    Ls,
    /// What an 'up' would meet at a target: version, rights, room, network, price. Makes nothing
    #[command(
        after_help = "Examples:\n  sypctl provider check\n  sypctl provider check k8s:kind-dev\n  sypctl provider check k8s:prod --namespace shop --cpu 500m --memory 256Mi --replicas 3\n  sypctl provider check k8s:prod -o json\n  sypctl provider check aws:eu-west-1 --domain shop.example.com\n  sypctl provider check k8s:prod --role | kubectl apply -f -    (as who may give rights)\n\nExit code 0: an 'up' would pass, as far as can be said without its image. Each line with 'fail' says what to do next; its exit code is the one\nthat 'up' would have. A k8s target needs a role like deploy/kubernetes/cluster-role.yaml, or with --namespace like namespace-role.yaml;\nan aws target what deploy/aws/bootstrap.yaml makes, once for an account."
    )]
    Check(Check),
}

/// Which, and for what.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// docker, k8s (the current context), k8s:CONTEXT or aws:REGION
    #[arg(default_value = "docker")]
    target: String,
    /// In this namespace, which is there; without it each instance gets one of its own
    #[arg(long, default_value = "", value_name = "NAME")]
    namespace: String,
    /// On AWS: the name that callers are to use, for its certificate
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    #[command(flatten)]
    aws: Aws,
    /// Cores of each replica
    #[arg(long, value_parser = parse::cpu, value_name = "CORES")]
    cpu: Option<String>,
    /// Memory of each replica
    #[arg(long, value_parser = parse::memory, value_name = "BYTES")]
    memory: Option<String>,
    /// How many
    #[arg(long, default_value = "1", value_parser = parse::replicas, value_name = "N")]
    replicas: i32,
    /// Print only what gives the missing rights, as YAML
    #[arg(long)]
    role: bool,
}

/// Runs it.
///
/// # Errors
/// What the engine said; the exit code that `up` would have when something is in its way.
pub async fn run(ctx: &Ctx<'_>, c: Command) -> Done {
    match c {
        Command::Ls => ls(ctx).await,
        Command::Check(c) => check(ctx, c).await,
    }
}

async fn ls(ctx: &Ctx<'_>) -> Done {
    let client = ctx.client().await?;
    let ask = ListProvidersRequest { page_size: 1000, ..Default::default() };
    let all = client
        .call_provider(ask, |ch, r| async move { ProvidersClient::new(ch).list_providers(r).await })
        .await?;
    let short = |p: &Provider| p.name.strip_prefix("providers/").unwrap_or(&p.name).to_owned();
    let rows = all.providers.iter().map(|p| {
        let answers = if p.reachable { "yes" } else { "NO" };
        [short(p), answers.to_owned(), p.identity.clone()]
    });
    let table = || render::table(&["TARGET", "ANSWERS", "WHAT IT SAYS"], rows, ctx.out.colours);
    let names = || all.providers.iter().map(short).collect::<Vec<_>>().join("\n");
    ctx.out.document(&all, table, names)?;
    Ok(exit::OK)
}

async fn check(ctx: &Ctx<'_>, a: Check) -> Done {
    let client = ctx.client().await?;
    let spec = InstanceSpec {
        kubernetes: Some(Kubernetes { namespace: a.namespace, ..Default::default() }),
        resources: Some(Resources {
            cpu: a.cpu.unwrap_or_default(),
            memory: a.memory.unwrap_or_default(),
            ..Default::default()
        }),
        domains: a.domain.into_iter().collect(),
        aws: a.aws.asked(false),
        scaling: Some(Scaling { min: a.replicas, max: a.replicas, ..Default::default() }),
        ..Default::default()
    };
    let ask = CheckProviderRequest {
        name: format!("providers/{}", a.target),
        for_spec: Some(spec),
        ..Default::default()
    };
    let said = client
        .call_provider(ask, |ch, r| async move { ProvidersClient::new(ch).check_provider(r).await })
        .await?;
    if a.role {
        ctx.out.data(said.role.trim_end());
        return Ok(exit::OK);
    }
    ctx.out.document(&said, || text(&said, ctx.out.colours), || a.target.clone())?;
    refusal(&said).map_or(Ok(exit::OK), Err)
}

/// What `up` would be refused with: the first of all.
fn refusal(said: &CheckProviderResponse) -> Option<Failure> {
    let first = said.findings.iter().find(|f| f.verdict() == Verdict::Fail)?;
    // these come back by themselves when somebody logs in, or writes the file
    let code = match first.reason.as_str() {
        "KUBECONFIG" | "CREDENTIALS" => Code::Unavailable,
        _ => Code::FailedPrecondition,
    };
    let what = format!("an 'up' would not pass: {}", first.what);
    let next = format!("do what the lines with 'fail' say; 'sypctl explain {}' says more", first.reason);
    Some(Failure::new(exit::of_call(code, &first.reason), &first.reason, what, next))
}

fn text(said: &CheckProviderResponse, colours: bool) -> String {
    let row = |f: &Finding| {
        let word = match f.verdict() {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
            Verdict::Note | Verdict::Unspecified => "-",
        };
        // the rules are below, once and whole
        let next = f.next.lines().next().unwrap_or_default().trim_end_matches(':');
        let next = if next.is_empty() { String::new() } else { format!(" -> {next}") };
        [word.to_owned(), f.what.clone(), format!("{}{next}", f.found)]
    };
    let table = render::table(&[], said.findings.iter().map(row), colours);
    if said.role.is_empty() {
        return table;
    }
    format!(
        "{table}\n\n# what is missing; apply it as somebody who may give rights\n{}",
        said.role.trim_end()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_how_it_is_and_what_to_do_and_the_first_failure_counts() {
        let f = |what: &str, verdict: Verdict, found: &str, next: &str, reason: &str| Finding {
            what: what.into(),
            verdict: verdict as i32,
            found: found.into(),
            next: next.into(),
            reason: reason.into(),
        };
        let said = CheckProviderResponse {
            findings: vec![
                f("reachable", Verdict::Ok, "yes", "", ""),
                f("network", Verdict::Note, "unknown", "", ""),
                f(
                    "rights",
                    Verdict::Fail,
                    "lacks get pods",
                    "add to its role:\n- apiGroups: [\"\"]",
                    "RIGHTS_MISSING",
                ),
                f("quota", Verdict::Fail, "full", "raise it", "QUOTA_EXCEEDED"),
            ],
            role: "kind: Role\n".into(),
            ..Default::default()
        };
        assert_eq!(
            text(&said, false),
            "ok    reachable  yes\n-     network    unknown\nfail  rights     lacks get pods -> add to its role\nfail  quota      full -> raise it\n\n# what is missing; apply it as somebody who may give rights\nkind: Role"
        );
        let no = refusal(&said).unwrap();
        assert_eq!((no.exit(), no.message()), (exit::NOT_ALLOWED, "an 'up' would not pass: rights"));
        let only = |reason: &str| CheckProviderResponse {
            findings: vec![f("x", Verdict::Fail, "", "", reason)],
            ..Default::default()
        };
        let code = |reason: &str| refusal(&only(reason)).unwrap().exit();
        assert_eq!(code("QUOTA_EXCEEDED"), exit::BLOCKED);
        assert_eq!(code("KUBECONFIG"), exit::UNAVAILABLE);
        assert_eq!(code("PROVIDER_UNREACHABLE"), exit::UNAVAILABLE);
        assert!(refusal(&CheckProviderResponse::default()).is_none());
    }
}
