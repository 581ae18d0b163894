use super::{task::STOP_S, *};
use crate::aws::{names::TRAFFIC, variants};

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn container<'a>(t: &'a Value, name: &str) -> &'a Value {
    let all = t["Resources"]["TaskDefinition"]["Properties"]["ContainerDefinitions"].as_array().unwrap();
    all.iter().find(|c| c["Name"] == name).unwrap()
}

#[test]
fn every_variant_fits_and_is_the_same_each_time() {
    for ((name, text), (_, again)) in variants::all().into_iter().zip(variants::all()) {
        assert!(text.len() < LIMIT / 3, "{name}: {}", text.len());
        assert_eq!(text, again, "{name}");
        let t = read(&text);
        assert!(t["Parameters"].is_null() && t["Conditions"].is_null(), "{name}");
    }
}

#[test]
fn only_the_gates_port_is_open_and_only_from_the_load_balancer() {
    for (name, text) in variants::all() {
        let t = read(&text);
        let group = &t["Resources"]["TaskSecurityGroup"]["Properties"]["SecurityGroupIngress"];
        assert_eq!(group.as_array().unwrap().len(), 1, "{name}");
        assert_eq!(group[0]["FromPort"], TRAFFIC);
        assert_eq!(group[0]["SourceSecurityGroupId"], get("AlbSecurityGroup", "GroupId"));
        assert!(group[0]["CidrIp"].is_null());
        assert!(container(&t, "app")["PortMappings"].is_null(), "{name}: the app is no target of anything");
    }
}

#[test]
fn the_app_has_no_role_and_no_value_of_a_secret_is_in_a_template() {
    for (name, text) in variants::all() {
        let t = read(&text);
        assert!(t["Resources"]["TaskDefinition"]["Properties"]["TaskRoleArn"].is_null(), "{name}");
        for c in ["app", "gate"] {
            for s in container(&t, c)["Secrets"].as_array().unwrap() {
                assert!(
                    s["ValueFrom"].as_str().unwrap().starts_with("arn:aws:secretsmanager:"),
                    "{name}: {s}"
                );
            }
        }
        let may = &t["Resources"]["ExecutionRole"]["Properties"];
        assert!(may["PermissionsBoundary"].is_string(), "{name}");
        for statement in may["Policies"][0]["PolicyDocument"]["Statement"].as_array().unwrap() {
            let everything = statement["Resource"] == "*";
            assert!(!everything || statement["Sid"] == "Login", "{name}: {statement}");
        }
    }
}

#[test]
fn all_that_takes_tags_has_them() {
    let untagged = [
        "AWS::ElasticLoadBalancingV2::Listener",
        "AWS::Route53::RecordSet",
        "AWS::ApplicationAutoScaling::ScalableTarget",
        "AWS::ApplicationAutoScaling::ScalingPolicy",
    ];
    for (name, text) in variants::all() {
        for (id, r) in read(&text)["Resources"].as_object().unwrap() {
            let plain = untagged.contains(&r["Type"].as_str().unwrap());
            assert_eq!(r["Properties"]["Tags"].is_null(), plain, "{name}: {id}");
        }
    }
}

#[test]
fn the_gate_is_told_to_go_before_the_app_and_both_have_their_time() {
    let t = read(&variants::all()[0].1);
    assert_eq!(container(&t, "gate")["DependsOn"][0]["ContainerName"], "app");
    assert!(container(&t, "app")["DependsOn"].is_null());
    for name in ["app", "gate"] {
        assert_eq!(container(&t, name)["StopTimeout"], STOP_S);
    }
}

#[test]
fn a_range_is_scaled_by_aws_and_a_number_is_not() {
    let all = variants::all();
    let of = |name: &str| read(&all.iter().find(|(n, _)| *n == name).unwrap().1);
    assert!(of("plain")["Resources"]["ScaleOnCpu"].is_null());
    let range = of("range");
    assert_eq!(range["Resources"]["ScalableTarget"]["Properties"]["MaxCapacity"], 5);
    // AWS chooses: an update of something else must not bring it back to a number
    assert!(range["Resources"]["Service"]["Properties"]["DesiredCount"].is_null());
    assert_eq!(of("plain")["Resources"]["Service"]["Properties"]["DesiredCount"], 1);
    // but for the first one: with one task a service would stay below its least
    let made = |t: &Value| read(&first(&t.to_string()));
    assert_eq!(made(&range)["Resources"]["Service"]["Properties"]["DesiredCount"], 2);
    assert_eq!(made(&range)["Metadata"], range["Metadata"], "it is the same to whoever compares");
    assert_eq!(made(&of("plain")), of("plain"));
}

#[test]
fn a_change_of_anything_is_another_digest() {
    let (owner, spec, site) = (variants::owner(), variants::spec(), variants::site());
    let digest = |spec: &InstanceSpec, site: &Site| render(&owner, spec, site).1;
    let first = digest(&spec, &site);
    assert_eq!(first, digest(&spec, &site));
    assert_ne!(first, digest(&InstanceSpec { port: 8081, ..spec.clone() }, &site));
    assert_ne!(first, digest(&spec, &Site { domain: "other.example.com".into(), ..site }));
}

/// The linter knows what each region's resources may be; so far as ours are its business it has nothing to say.
#[test]
fn the_linter_of_aws_finds_nothing_in_any_variant() {
    let Some(linter) = std::env::var_os("SYP_TEST_CFN_LINT") else {
        println!("SKIPPED: no linter of templates (SYP_TEST_CFN_LINT does not say where one is)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).with_extension("json");
    let said = |names: &[&str]| {
        let mut lint = std::process::Command::new(&linter);
        lint.args(["-c", "I", "-r", "us-east-1", "eu-west-1", "ap-southeast-2", "--"]);
        let out = lint.args(names.iter().map(|n| file(n))).output().unwrap();
        (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned())
    };
    let all = variants::all();
    for (name, text) in &all {
        std::fs::write(file(name), text).unwrap();
    }
    // what an administrator deploys before
    let bootstrap = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/aws/bootstrap.yaml");
    std::fs::copy(bootstrap, file("bootstrap")).unwrap();
    let names: Vec<_> = all.iter().map(|(name, _)| *name).chain(["bootstrap"]).collect();
    assert_eq!(said(&names), (true, String::new()));
    // and it does look
    std::fs::write(file("broken"), all[0].1.replace("\"FARGATE\"", "\"FARGATES\"")).unwrap();
    assert!(!said(&["broken"]).0);
}

#[test]
fn what_cloudformation_would_resolve_is_found_wherever_it_is() {
    let word = "a{{resolve:secretsmanager:prod/db}}".to_owned();
    let plain = variants::spec();
    assert_eq!(resolved(&plain), None);
    let env = |k: &str, v: &str| InstanceSpec { env: [(k.to_owned(), v.to_owned())].into(), ..plain.clone() };
    assert_eq!(resolved(&env("K", &word)), Some(word.as_str()));
    assert_eq!(resolved(&env("K", "{{resolve}} {{x}} ${AWS::Region}")), None);
    let probe = syp_proto::v1::Probe { path: format!("/{word}"), ..Default::default() };
    for spec in [
        InstanceSpec { args: vec!["-x".into(), word.clone()], ..plain.clone() },
        InstanceSpec { entrypoint: vec![word], ..plain.clone() },
        InstanceSpec { probe: Some(probe), ..plain.clone() },
    ] {
        assert!(resolved(&spec).is_some(), "{spec:?}");
    }
}

#[test]
fn whoever_pulls_may_read_both_images_and_no_other() {
    let all: std::collections::HashMap<_, _> = variants::all().into_iter().collect();
    let may = |t: &Value| {
        t["Resources"]["ExecutionRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"].clone()
    };
    let of = |may: &Value, sid: &str| {
        may.as_array().unwrap().iter().find(|s| s["Sid"] == sid).map(|s| s["Resource"].clone())
    };
    // in the account's ECR: by right
    let t = read(&all["own-registry"]);
    let both = ["shop", "syp-gate"].map(|n| format!("arn:aws:ecr:us-east-1:123456789012:repository/{n}"));
    assert_eq!(of(&may(&t), "Pull"), Some(json!(both)));
    assert!(container(&t, "app")["RepositoryCredentials"].is_null());
    // in a private one: with the login that is for it, and a gate that is elsewhere without
    let t = read(&all["full"]);
    let login = &container(&t, "app")["RepositoryCredentials"]["CredentialsParameter"];
    assert!(of(&may(&t), "Secrets").unwrap().as_array().unwrap().contains(login), "{login}");
    assert_eq!(&container(&t, "gate")["RepositoryCredentials"]["CredentialsParameter"], login);
    let elsewhere = Site {
        pull_secret: login.as_str().unwrap().into(),
        gate_image: "public.ecr.aws/syp/gate:1".into(),
        ..variants::site()
    };
    let t = read(&render(&variants::owner(), &variants::spec(), &elsewhere).0);
    assert_eq!(&container(&t, "app")["RepositoryCredentials"]["CredentialsParameter"], login);
    assert!(container(&t, "gate")["RepositoryCredentials"].is_null());
    // of the one that everybody may read: nothing
    let t = read(&all["plain"]);
    assert!(of(&may(&t), "Pull").is_none() && container(&t, "app")["RepositoryCredentials"].is_null());
}

/// Nobody comes to the gate but over TLS: what listens without it sends on and does nothing else.
#[test]
fn one_listener_serves_with_the_certificate_and_the_other_sends_to_it() {
    for (name, text) in variants::all() {
        let t = read(&text);
        let all = t["Resources"].as_object().unwrap().values();
        let listeners: Vec<_> =
            all.filter(|r| r["Type"] == "AWS::ElasticLoadBalancingV2::Listener").collect();
        let (tls, plain): (Vec<_>, Vec<_>) =
            listeners.iter().map(|l| &l["Properties"]).partition(|p| p["Protocol"] == "HTTPS");
        assert_eq!((tls.len(), plain.len()), (1, 1), "{name}");
        assert_eq!(tls[0]["Port"], 443, "{name}");
        assert!(tls[0]["Certificates"][0]["CertificateArn"].as_str().unwrap().starts_with("arn:"), "{name}");
        assert!(tls[0]["SslPolicy"].as_str().unwrap().contains("TLS13"), "{name}");
        assert_eq!(plain[0]["DefaultActions"].as_array().unwrap().len(), 1, "{name}");
        let sends = &plain[0]["DefaultActions"][0];
        assert_eq!(
            (&sends["Type"], &sends["RedirectConfig"]["Protocol"]),
            (&json!("redirect"), &json!("HTTPS"))
        );
    }
}
