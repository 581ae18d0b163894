//! What an `up` would meet in an account, before anybody needs it.
use super::{Shared, certificate, client, definitions, network, preflight, pull, quotas, tasks, writes};
use syp_engine::examined::Examined;
use syp_proto::{journal::Failure, v1};

/// Nothing is called so.
const NOTHING: &str = "sypctl-check";

/// Looks at everything.
pub(super) async fn examine(s: &Shared, spec: &v1::InstanceSpec) -> Examined {
    let mut out = Examined::default();
    if let Err(f) = Box::pin(look(s, spec, &mut out)).await {
        out.fail("reachable", f);
    }
    out
}

/// Ends early when the account can't be asked at all.
async fn look(s: &Shared, spec: &v1::InstanceSpec, out: &mut Examined) -> Result<(), Failure> {
    let who = s.who().await?;
    out.ok("reachable", format!("AWS answers in {}", s.region));
    out.identity = format!("{} of account {}", who.arn, who.account);
    out.ok("identity", out.identity.clone());
    let found = "the role and the boundary of deploy/aws/bootstrap.yaml";
    out.judge("bootstrap", preflight::bootstrapped(s).await, found);
    Box::pin(rights(s, out)).await;
    let gate = async {
        let image = preflight::gate_image(s)?;
        let partition = client::partition(&s.region).0;
        if preflight::repository(&image, partition, &who.account).is_empty() {
            pull::gate(&image, None).await?;
        }
        Ok(image)
    };
    match gate.await {
        Ok(image) => out.ok("gate's image", image),
        Err(f) => out.fail("gate's image", f),
    }
    let aws = spec.aws.clone().unwrap_or_default();
    let c = s.clients().await?;
    match network::find(&c.query, &s.region, &aws.subnets).await {
        Ok(p) => out.ok("network", format!("{} with {}", p.vpc, p.subnets.join(", "))),
        Err(f) => out.fail("network", f),
    }
    match spec.domains.first() {
        Some(d) => match certificate::find(&c.acm, &s.region, &aws.certificate, d).await {
            Ok(arn) => out.ok("certificate", arn),
            Err(f) => out.fail("certificate", f),
        },
        None => out.note("certificate", "'--domain NAME' looks for one"),
    }
    if spec.resources.is_some() {
        match preflight::size(spec) {
            Ok(size) => {
                out.ok("size", format!("a task of {} CPU units and {} MiB", size.cpu, size.memory));
                Box::pin(quotas::examine(s, spec, size, out)).await;
            }
            Err(f) => out.fail("size", f),
        }
    }
    let prices = s.prices.read().clone();
    if prices.knows(&s.region) {
        let words = prices.words();
        out.ok("prices", words);
    } else {
        out.warn(
            "prices",
            format!("no price of {} is known", s.region),
            format!("the first 'up' reads them, or 'sypctl prices refresh {}'", s.name),
        );
    }
    Ok(())
}

/// What every instance needs: rights that are missing are named by their action.
async fn rights(s: &Shared, out: &mut Examined) {
    let writes = async {
        let (c, role) = (s.clients().await, s.role().await);
        match (c, role) {
            (Ok(c), Ok(role)) => Box::pin(writes::tried(c, &role)).await,
            (Err(f), _) | (_, Err(f)) => vec![Err(f)],
        }
    };
    let of = tasks::Of { cluster: NOTHING, service: NOTHING };
    let (stacks, service, definitions, secrets, tags, writes) = tokio::join!(
        super::listing::may_list_stacks(s),
        async { tasks::service(s, of).await.map(drop) },
        async { definitions::inactive(s, NOTHING).await.map(drop) },
        super::listing::may_list_secrets(s),
        super::listing::may_list_tagged(s),
        writes,
    );
    let mut good = true;
    for said in [stacks, service, definitions, secrets, tags].into_iter().chain(writes) {
        let Err(mut f) = said else { continue };
        good = false;
        if f.reason == "RIGHTS_MISSING" {
            let action = writes::action(&f).to_owned();
            // more than one call may need it
            if out.missing.contains(&action) {
                continue;
            }
            f.hint = format!("whoever administers the account must allow {action}");
            out.missing.push(action);
        }
        out.fail("rights", f);
    }
    if good {
        out.ok("rights", "reads, and changes that are about nothing, are allowed; what only a real change shows is in deploy/aws/bootstrap.yaml");
    }
}
