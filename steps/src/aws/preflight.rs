//! Everything that can be refused before anything is made.
use super::{
    Shared, certificate, client,
    facts::Facts,
    names::{ADMIN, TRAFFIC},
    network::{self, Place},
    price, pull,
    query::IAM,
    quotas,
    size::{self, Size},
    target::{BOUNDARY, ROLE, boundary},
    template::resolved,
};
use crate::{
    k8s::preflight::only_scales,
    registry::{self, Pinned},
};
use serde::Deserialize;
use serde_json::json;
use syp_engine::{
    api::validate,
    failure::{Class, failure},
    scaling,
    step::{Held, Preflight},
};
use syp_proto::{
    journal::Failure,
    v1::{
        self,
        instance_spec::{Egress, Isolation},
    },
};

/// What the gate and the agent need beside the app: thousandths of a core, bytes.
const OWN: (u64, u64) = (50, 64 << 20);
/// Of an app that says nothing.
const USUAL: (u64, u64) = (200, 448 << 20);

fn refuse(reason: &str, what: impl Into<String>, next: impl Into<String>) -> Failure {
    failure(Class::Terminal, reason, what, next)
}

/// Looks at the account, the network, the certificate, the images and the spec.
pub(super) async fn check(
    s: &Shared,
    spec: &v1::InstanceSpec,
    held: Option<&Held<'_>>,
) -> Result<Preflight, Failure> {
    let mut spec = spec.clone();
    spec.target.clone_from(&s.name);
    let domain = fits(&spec)?.to_owned();
    let size = size(&spec)?;
    let gate_image = gate_image(s)?;
    let aws = spec.aws.clone().unwrap_or_default();
    let q = &s.clients().await?.query;
    let who = s.who().await?;
    bootstrapped(s).await?;
    let place = async {
        match held {
            // an instance stays where it is
            Some(h) => Ok(Facts::read(h.facts)?.place),
            None => network::find(q, &s.region, &aws.subnets).await,
        }
    };
    let certificate = certificate::find(&s.clients().await?.acm, &s.region, &aws.certificate, &domain);
    let room = Box::pin(quotas::check(s, &spec, size, held.is_none()));
    let (place, certificate, image, room) = tokio::join!(place, certificate, image(&spec, held), room);
    room?;
    let (place, certificate, (image, digest)): (Place, String, _) = (place?, certificate?, image?);
    let partition = client::partition(&s.region).0;
    let of = |image: &str| repository(image, partition, &who.account);
    let (repository, gate_repository) = (of(&image), of(&gate_image));
    // one that only says how many there should be pulls what it pulls
    let kept = held.filter(|h| only_scales(h, &spec)).and_then(|h| Facts::read(h.facts).ok());
    let login = match kept {
        Some(f) => f.login,
        None => {
            let login = pull::check(&spec, &image, !repository.is_empty(), held.is_some()).await?;
            if gate_repository.is_empty() {
                pull::gate(&gate_image, login.then_some(image.as_str())).await?;
            }
            login
        }
    };
    let arm = arm(&image, &gate_image).await?;
    if spec.read_only_root {
        writes(&image).await?;
    }
    if spec.port == 0 {
        return Err(refuse("PORT_UNKNOWN", "AWS asks no image on which port it listens", "add --port N"));
    }
    let facts = Facts {
        repository,
        account: who.account,
        partition: partition.to_owned(),
        place,
        certificate,
        image,
        digest,
        gate_image,
        gate_repository,
        login,
        arm,
        cpu: size.cpu,
        memory: size.memory,
    };
    let mut facts = json!(facts);
    if let Some(n) = held.and_then(|h| h.facts[scaling::REPLICAS].as_u64()) {
        facts[scaling::REPLICAS] = n.into();
    }
    let (hourly, lines, facts) = price::price(s, &spec, &facts);
    Ok(Preflight { facts, spec, hourly, lines })
}

/// What Fargate can't do for us, or a template can't say; else the domain. Pure.
pub(super) fn fits(spec: &v1::InstanceSpec) -> Result<&str, Failure> {
    let no = |what: &str, next: &str| Err(refuse("NOT_SUPPORTED", format!("on AWS {what}"), next));
    if spec.publish.is_some() {
        return no("the load balancer publishes the gate", "leave --publish away");
    }
    if spec.kubernetes.is_some() {
        return no("there is no namespace, ingress or Gateway", "leave what is for clusters away");
    }
    if spec.secrets.iter().any(|r| !r.file.is_empty()) {
        return no("values come as variables alone", "use --secret NAME instead of --secret-file");
    }
    if spec.egress() == Egress::Off {
        return no("a task that had no way out could not pull its image", "leave --egress none away");
    }
    if [Isolation::Rules, Isolation::NotEnforced].contains(&spec.isolation()) {
        return no("the app is isolated by its security group", "leave --isolation away");
    }
    if scaling::target_millirps(spec).is_some() {
        return no(
            "nobody counts the requests that were let in: the load balancer counts refused ones too, and strangers could buy replicas",
            "use --target-cpu",
        );
    }
    if let Some(word) = resolved(spec) {
        return no(
            &format!("CloudFormation would put something else in place of '{word}'"),
            "put that value into a secret: --secret NAME=@FILE",
        );
    }
    let port = u16::try_from(spec.port).unwrap_or(0);
    if [TRAFFIC, ADMIN].contains(&port) {
        return no(&format!("port {port} of a task is the gate's own"), "let the app listen on another");
    }
    match spec.domains.as_slice() {
        [one] => Ok(one),
        [] => no("callers come by a name with a certificate", "say which with --domain NAME"),
        _ => no("an instance has one domain", "leave one --domain"),
    }
}

/// Of a task, with room for the gate. Pure.
pub(super) fn size(spec: &v1::InstanceSpec) -> Result<Size, Failure> {
    let r = spec.resources.clone().unwrap_or_default();
    let said = |text: &str, parsed: Option<u64>, usual: u64, own: u64| match parsed {
        Some(n) if !text.is_empty() => n.saturating_add(own),
        _ => usual + own,
    };
    let cpu = said(&r.cpu, validate::cpu_millis(&r.cpu), USUAL.0, OWN.0);
    let memory = said(&r.memory, validate::memory_bytes(&r.memory), USUAL.1, OWN.1);
    size::fit(cpu, memory).ok_or_else(|| {
        refuse(
            "RESOURCES_EXCEED_HOST",
            format!("no Fargate task has {cpu} thousandths of a core and {} MiB", memory >> 20),
            "ask for less with --cpu and --memory: at most 16 cores and 120 GiB, the gate's part among them",
        )
    })
}

/// Where tasks get the gate from.
pub(super) fn gate_image(s: &Shared) -> Result<String, Failure> {
    s.gate_image.clone().ok_or_else(|| {
        refuse(
            "GATE_IMAGE",
            "the engine does not know where tasks get the gate's image from",
            "SYP_GATE_IMAGE=$(sypctl gate push REGISTRY/NAME) in the engine's environment, a public registry or the account's ECR; a local engine takes it when it starts: 'sypctl server stop'",
        )
    })
}

/// What an administrator makes once. Whoever may not look finds out later.
pub(super) async fn bootstrapped(s: &Shared) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Any {}
    let (q, boundary) =
        (&s.clients().await?.query, boundary(client::partition(&s.region).0, &s.who().await?.account));
    let (of_role, of_policy) = ([("RoleName", ROLE)], [("PolicyArn", boundary.as_str())]);
    let (role, policy) =
        tokio::join!(q.read::<Any>(IAM, "GetRole", &of_role), q.read::<Any>(IAM, "GetPolicy", &of_policy));
    for (what, said) in [(ROLE, role), (BOUNDARY, policy)] {
        match said {
            Err(f) if f.message.contains("NoSuchEntity") => {
                return Err(refuse(
                    "RIGHTS_MISSING",
                    format!("the account has no '{what}', with which stacks are made"),
                    "an administrator makes it once: 'aws cloudformation deploy --template-file deploy/aws/bootstrap.yaml --stack-name sypctl-bootstrap --capabilities CAPABILITY_NAMED_IAM'",
                ));
            }
            Err(f) if f.reason == "RIGHTS_MISSING" => {}
            said => {
                said?;
            }
        }
    }
    Ok(())
}

/// Which image it is, and its digest. What only says how many there should be stays what it is.
async fn image(spec: &v1::InstanceSpec, held: Option<&Held<'_>>) -> Result<(String, String), Failure> {
    let kept = held.filter(|h| only_scales(h, spec)).and_then(|h| Facts::read(h.facts).ok());
    if let Some(f) = kept {
        return Ok((f.image, f.digest));
    }
    match registry::pin(&spec.image).await {
        Pinned::To(image, digest) => Ok((image, digest)),
        Pinned::Missing(why) => Err(refuse(
            "IMAGE_NOT_FOUND",
            format!("there is no image '{}': {why}", spec.image),
            "check its name and tag, or push it: tasks pull it from there",
        )),
        // a registry that only tasks reach (the account's ECR without a login here)
        Pinned::Unknown(why) => {
            tracing::info!(image = spec.image, "not pinned to a digest: {why}");
            Ok((spec.image.clone(), String::new()))
        }
    }
}

/// A volume of Fargate is root's and closed to others, and nothing else may be written under a read-only root.
/// Source: Amazon ECS developer guide, "Bind mounts".
async fn writes(image: &str) -> Result<(), Failure> {
    let user = registry::user(image).await.unwrap_or_default();
    if ["", "0", "root"].contains(&user.split(':').next().unwrap_or_default()) {
        return Ok(());
    }
    Err(refuse(
        "NOT_SUPPORTED",
        format!(
            "on AWS /tmp of a task is root's, and the image runs as '{user}': under a read-only root it could write nowhere"
        ),
        "leave --root read-only away",
    ))
}

/// Is it for arm64? amd64 wherever both images are.
async fn arm(image: &str, gate: &str) -> Result<bool, Failure> {
    let (app, gate) = tokio::join!(registry::architectures(image), registry::architectures(gate));
    // one that can't be asked is taken for what most are
    let has =
        |all: &Option<Vec<String>>, arch: &str| all.as_ref().is_none_or(|a| a.iter().any(|x| x == arch));
    if has(&app, "amd64") && has(&gate, "amd64") {
        return Ok(false);
    }
    if has(&app, "arm64") && has(&gate, "arm64") {
        return Ok(true);
    }
    let words = |all: Option<Vec<String>>| all.map_or_else(|| "unknown".into(), |a| a.join(", "));
    Err(refuse(
        "IMAGE_ARCH_MISMATCH",
        format!("the image is for {}, the gate's for {}", words(app), words(gate)),
        "Fargate runs amd64 and arm64: build both for one of them",
    ))
}

/// ARN of an image's repository, where it is this account's: the role that pulls may read it. Pure.
pub(super) fn repository(image: &str, partition: &str, account: &str) -> String {
    let parts = || {
        let (host, rest) = registry::repository(image).split_once('/')?;
        let (of, rest_of_host) = host.split_once(".dkr.ecr.")?;
        let region = rest_of_host.split(".amazonaws.com").next().filter(|r| *r != rest_of_host)?;
        (of == account).then(|| format!("arn:{partition}:ecr:{region}:{account}:repository/{rest}"))
    };
    parts().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::variants;

    fn good() -> v1::InstanceSpec {
        v1::InstanceSpec { domains: vec!["shop.example.com".into()], ..variants::spec() }
    }

    #[test]
    fn what_aws_has_not_is_refused_with_what_to_do_instead() {
        assert_eq!(fits(&good()).unwrap(), "shop.example.com");
        let file = v1::SecretRef { file: "/run/key".into(), ..Default::default() };
        let range = v1::Scaling { min: 1, max: 3, target_rps: 5.0, ..Default::default() };
        for (bad, part) in [
            (v1::InstanceSpec { publish: Some(v1::Publish::default()), ..good() }, "--publish"),
            (v1::InstanceSpec { kubernetes: Some(v1::Kubernetes::default()), ..good() }, "clusters"),
            (v1::InstanceSpec { secrets: vec![file], ..good() }, "--secret"),
            (v1::InstanceSpec { egress: Egress::Off as i32, ..good() }, "--egress"),
            (v1::InstanceSpec { isolation: Isolation::Rules as i32, ..good() }, "--isolation"),
            (v1::InstanceSpec { scaling: Some(range), ..good() }, "--target-cpu"),
            (v1::InstanceSpec { args: vec!["{{resolve:ssm:x}}".into()], ..good() }, "--secret"),
            (v1::InstanceSpec { port: i32::from(TRAFFIC), ..good() }, "another"),
            (v1::InstanceSpec { domains: vec![], ..good() }, "--domain"),
            (v1::InstanceSpec { domains: vec!["a".into(), "b".into()], ..good() }, "--domain"),
        ] {
            let f = fits(&bad).unwrap_err();
            assert!(f.reason == "NOT_SUPPORTED" && f.hint.contains(part), "{part}: {f:?}");
        }
    }

    #[test]
    fn a_task_has_room_for_the_app_and_the_gate() {
        let of = |cpu: &str, memory: &str| {
            let resources = v1::Resources { cpu: cpu.into(), memory: memory.into(), ..Default::default() };
            size(&v1::InstanceSpec { resources: Some(resources), ..good() }).map(|s| (s.cpu, s.memory))
        };
        assert_eq!(of("", "").unwrap(), (256, 512));
        assert_eq!(of("200m", "448Mi").unwrap(), (256, 512));
        assert_eq!(of("250m", "512Mi").unwrap(), (512, 1_024));
        assert_eq!(of("16", "1Gi").unwrap_err().reason, "RESOURCES_EXCEED_HOST");
    }

    #[test]
    fn a_repository_of_this_account_is_known_and_no_other() {
        let of = |image: &str| repository(image, "aws", "123456789012");
        assert_eq!(
            of("123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/shop@sha256:00"),
            "arn:aws:ecr:eu-west-1:123456789012:repository/team/shop"
        );
        for other in
            ["999999999999.dkr.ecr.eu-west-1.amazonaws.com/shop:1", "registry.example.com/shop:1", "nginx"]
        {
            assert_eq!(of(other), "", "{other}");
        }
    }
}
