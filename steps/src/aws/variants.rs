//! Every kind of stack that can be rendered, for linters and emulators.
use super::{
    size::Size,
    template::{Site, render},
};
use std::collections::BTreeSet;
use syp_engine::{
    id::{InstanceId, StoreId},
    step::Owner,
};
use syp_proto::v1::{InstanceSpec, Scaling, SecretRef};

/// Whose they are: fixed, so that what is rendered is always the same.
pub fn owner() -> Owner {
    Owner {
        store: StoreId::from_stored("0123456789ab".into()),
        uid: InstanceId::from_bytes(*b"a test instance!"),
        name: "shop".into(),
        revision: "shop-1".into(),
    }
}

/// A plain one.
pub fn site() -> Site {
    let secret = |which: &str| {
        format!(
            "arn:aws:secretsmanager:us-east-1:123456789012:secret:sypctl/0123456789ab-612074657374/{which}-AbCdEf"
        )
    };
    Site {
        vpc: "vpc-0123456789abcdef0".into(),
        subnets: vec!["subnet-0123456789abcdef0".into(), "subnet-0123456789abcdef1".into()],
        public_ip: true,
        certificate: "arn:aws:acm:us-east-1:123456789012:certificate/01234567-89ab-cdef-0123-456789abcdef"
            .into(),
        domain: "shop.example.com".into(),
        zone: String::new(),
        boundary: "arn:aws:iam::123456789012:policy/sypctl/sypctl-task-boundary".into(),
        image: format!("registry.example.com/shop@sha256:{}", "1".repeat(64)),
        gate_image: format!("registry.example.com/syp-gate@sha256:{}", "2".repeat(64)),
        arm: false,
        size: Size { cpu: 256, memory: 512 },
        gate_secret: secret("gate"),
        app_secret: String::new(),
        pull_secret: String::new(),
        repositories: BTreeSet::new(),
    }
}

/// A plain one.
pub fn spec() -> InstanceSpec {
    InstanceSpec {
        image: "registry.example.com/shop:1".into(),
        port: 8080,
        target: "aws:us-east-1".into(),
        scaling: Some(Scaling { min: 1, max: 1, ..Default::default() }),
        ..Default::default()
    }
}

/// Name and text of each.
pub fn all() -> Vec<(&'static str, String)> {
    let rendered = |name, spec: &InstanceSpec, site: &Site| (name, render(&owner(), spec, site).0);
    let (plain, here) = (spec(), site());
    let secret = |env: &str| SecretRef {
        env: env.into(),
        secret: "own".into(),
        version: "1".into(),
        ..Default::default()
    };
    let busy = InstanceSpec {
        scaling: Some(Scaling { min: 2, max: 5, target_cpu: 50, ..Default::default() }),
        ..plain.clone()
    };
    let full = InstanceSpec {
        env: [("LEVEL", "debug"), ("QUOTE", "\"$HOME\" {{x}}")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        secrets: vec![secret("DB_PASSWORD"), secret("API_KEY")],
        entrypoint: vec!["/bin/app".into()],
        args: vec!["--listen".into(), ":8080".into()],
        read_only_root: true,
        ..busy.clone()
    };
    let app_secret = here.gate_secret.replace("/gate-", "/app-1-");
    let pull_secret = here.gate_secret.replace("/gate-", "/pull-");
    let all = Site {
        zone: "Z0123456789ABCDEFGHIJ".into(),
        arm: true,
        size: Size { cpu: 1_024, memory: 2_048 },
        app_secret,
        pull_secret,
        public_ip: false,
        ..here.clone()
    };
    let own = Site {
        repositories: ["shop", "syp-gate"]
            .map(|name| format!("arn:aws:ecr:us-east-1:123456789012:repository/{name}"))
            .into(),
        image: format!("123456789012.dkr.ecr.us-east-1.amazonaws.com/shop@sha256:{}", "1".repeat(64)),
        ..here.clone()
    };
    vec![
        rendered("plain", &plain, &here),
        rendered("range", &busy, &here),
        rendered("own-registry", &plain, &own),
        rendered("full", &full, &all),
    ]
}
