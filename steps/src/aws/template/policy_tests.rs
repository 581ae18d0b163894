//! Policies that an account is given, and those of each stack's role, before the eyes of a linter that knows which action has which
//! resources (parliament).
use crate::aws::variants;
use serde_json::{Value, json};
use serde_yaml_ng::Value as Yaml;
use std::collections::BTreeSet;

/// What stands for a reference in a policy: the linter knows no templates.
fn plain(v: &Value) -> Value {
    match v {
        Value::Array(all) => all.iter().map(plain).collect(),
        Value::Object(o) => match o.iter().next() {
            Some((k, of)) if k == "Fn::Sub" => {
                let names = [("Partition", "aws"), ("AccountId", "123456789012"), ("Region", "eu-west-1")];
                let text = of.as_str().unwrap().to_owned();
                let text = text.replace("${HostedZoneId}", "Z0123456789ABCDEFGHIJ");
                names.iter().fold(text, |t, (k, v)| t.replace(&format!("${{AWS::{k}}}"), v)).into()
            }
            Some((k, of)) if k == "Ref" || k == "Fn::GetAtt" => {
                let kind = if of.to_string().contains("Boundary") { "policy" } else { "role" };
                format!("arn:aws:iam::123456789012:{kind}/sypctl/x").into()
            }
            _ => o.iter().map(|(k, v)| (k.clone(), plain(v))).collect(),
        },
        other => other.clone(),
    }
}

/// Its short forms as the long ones.
fn long(v: &Yaml) -> Value {
    match v {
        Yaml::Tagged(t) => {
            let name = t.tag.to_string();
            let name = name.trim_start_matches('!');
            let name = if name == "Ref" { name.to_owned() } else { format!("Fn::{name}") };
            json!({ name: long(&t.value) })
        }
        Yaml::Sequence(all) => all.iter().map(long).collect(),
        Yaml::Mapping(m) => m.iter().map(|(k, v)| (k.as_str().unwrap().to_owned(), long(v))).collect(),
        other => serde_json::to_value(other).unwrap(),
    }
}

fn policies(v: &Value, out: &mut Vec<Value>) {
    match v {
        Value::Array(all) => all.iter().for_each(|v| policies(v, out)),
        Value::Object(o) => {
            for (k, v) in o {
                if k == "PolicyDocument" { out.push(plain(v)) } else { policies(v, out) }
            }
        }
        _ => {}
    }
}

/// Each finding as one line: what, and about which actions.
fn findings(linter: &std::ffi::OsStr, policy: &Value) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("policy.json"), policy.to_string()).unwrap();
    let mut lint = std::process::Command::new(linter);
    lint.args(["--json", "--directory"]).arg(folder.path()).stdin(std::process::Stdio::null());
    let out = lint.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    // it ends with 1 for findings, and for a crash of its own
    let whole = out.status.success() || out.status.code() == Some(1) && !said.trim().is_empty();
    assert!(whole, "{said}{}", String::from_utf8_lossy(&out.stderr));
    let line = |l: &str| {
        let f: Value = serde_json::from_str(l).unwrap();
        format!("{} {}", f["issue"].as_str().unwrap_or_default(), f["detail"])
    };
    said.lines().filter(|l| !l.trim().is_empty()).map(line).collect()
}

/// These are meant: an ARN of a boundary is compared as the text that it is; of actions on listeners those of network load balancers are
/// not given; where AWS' own pages differ on whether an action has resources, it is given for all; one action is newer than the linter.
fn meant(finding: &str) -> bool {
    let (issue, about) = finding.split_once(' ').unwrap_or_default();
    match issue {
        "MISMATCHED_TYPE_BUT_USABLE" => about.contains("given Arn"),
        "RESOURCE_MISMATCH" => {
            about.matches("required_format").count() == about.matches(":listener/net/").count()
        }
        "RESOURCE_STAR" => {
            let known = [
                "ecs:CreateCluster",
                "ecs:RegisterTaskDefinition",
                "ecs:ListTasks",
                "ecr:GetAuthorizationToken",
            ];
            let all: Vec<String> = serde_json::from_str(about).unwrap();
            all.iter().all(|a| known.contains(&a.as_str()))
        }
        "UNKNOWN_ACTION" => about.contains("ecs:StopServiceDeployment"),
        _ => false,
    }
}

#[test]
fn the_linter_of_policies_finds_nothing_but_what_is_meant() {
    let Some(linter) = std::env::var_os("SYP_TEST_PARLIAMENT") else {
        println!("SKIPPED: no linter of policies (SYP_TEST_PARLIAMENT does not say where one is)");
        return;
    };
    let bootstrap = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/aws/bootstrap.yaml"));
    let mut all = vec![];
    policies(&long(&serde_yaml_ng::from_str(bootstrap).unwrap()), &mut all);
    assert_eq!(all.len(), 4, "boundary, CloudFormation's role, its records, the operator");
    for (_, text) in variants::all() {
        policies(&serde_json::from_str(&text).unwrap(), &mut all);
    }
    all.sort_by_key(ToString::to_string);
    all.dedup();
    for policy in &all {
        let odd: Vec<_> = findings(&linter, policy).into_iter().filter(|f| !meant(f)).collect();
        assert!(odd.is_empty(), "{odd:#?}\nin {policy:#}");
    }
    // and it does look
    let wrong = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "logs:FilterLogEvents", "Resource": "arn:aws:s3:::x" },
    ] });
    assert!(findings(&linter, &wrong).iter().any(|f| !meant(f)));
}

/// What handlers ask for that no template of ours makes them do: schedules and functions that scale, targets that are not ECS' own,
/// reserved capacity and address pools, managed policies on a role, a role without its boundary, protection and delivery of lines,
/// keys, pools of users, an account's own settings, another description or tag of what keeps them.
const NEVER: [&str; 34] = [
    "application-autoscaling:DeleteScheduledAction",
    "application-autoscaling:PutScheduledAction",
    "cognito-idp:DescribeUserPoolClient",
    "ec2:DeleteTags",
    "ec2:DescribeIpamPools",
    "ec2:UpdateSecurityGroupRuleDescriptionsEgress",
    "ec2:UpdateSecurityGroupRuleDescriptionsIngress",
    "ecs:PutAccountSetting",
    "ecs:PutAccountSettingDefault",
    "ecs:PutClusterCapacityProviders",
    "elasticloadbalancing:DeregisterTargets",
    "elasticloadbalancing:ModifyCapacityReservation",
    "elasticloadbalancing:ModifyIpPools",
    "elasticloadbalancing:RegisterTargets",
    "firehose:TagDeliveryStream",
    "iam:AttachRolePolicy",
    "iam:DeleteRolePermissionsBoundary",
    "iam:DetachRolePolicy",
    "kms:DescribeKey",
    "lambda:DeleteProvisionedConcurrencyConfig",
    "lambda:GetProvisionedConcurrencyConfig",
    "lambda:PutProvisionedConcurrencyConfig",
    "logs:AssociateKmsKey",
    "logs:CreateLogDelivery",
    "logs:DeleteDataProtectionPolicy",
    "logs:DeleteIndexPolicy",
    "logs:DeleteResourcePolicy",
    "logs:DisassociateKmsKey",
    "logs:PutBearerTokenAuthentication",
    "logs:PutDataProtectionPolicy",
    "logs:PutIndexPolicy",
    "logs:PutLogGroupDeletionProtection",
    "logs:PutResourcePolicy",
    "s3:REST.PUT.OBJECT",
];

/// By the schemas that AWS publishes of its resource types, which the linter of templates has with it. A type's `list` is for whoever
/// looks for its resources, not for a stack.
#[test]
fn cloudformation_s_role_may_what_the_handlers_of_our_resources_ask_for() {
    let Some(linter) = std::env::var_os("SYP_TEST_CFN_LINT") else {
        println!("SKIPPED: no linter of templates (SYP_TEST_CFN_LINT does not say where one is)");
        return;
    };
    let lib = std::path::Path::new(&linter).ancestors().nth(2).unwrap().join("lib");
    let python = std::fs::read_dir(lib).unwrap().next().unwrap().unwrap().path();
    let schemas = python.join("site-packages/cfnlint/data/schemas/resources");
    let bootstrap = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/aws/bootstrap.yaml"));
    let bootstrap = long(&serde_yaml_ng::from_str(bootstrap).unwrap());
    let mut given = vec![];
    policies(&bootstrap["Resources"]["CloudFormationRole"], &mut given);
    policies(&bootstrap["Resources"]["RecordsPolicy"], &mut given);
    let actions = |s: &Value| match &s["Action"] {
        Value::Array(all) => all.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect(),
        one => vec![one.as_str().unwrap().to_owned()],
    };
    let statements = given.iter().flat_map(|p| p["Statement"].as_array().unwrap());
    let given: BTreeSet<String> = statements.flat_map(actions).collect();
    let templates =
        variants::all().into_iter().map(|(_, text)| serde_json::from_str::<Value>(&text).unwrap());
    let types: BTreeSet<String> = templates
        .flat_map(|t| t["Resources"].as_object().unwrap().clone())
        .map(|(_, r)| r["Type"].as_str().unwrap().to_owned())
        .collect();
    let (mut seen, mut never) = (0, BTreeSet::new());
    for file in std::fs::read_dir(schemas).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let name = schema["typeName"].as_str().unwrap_or_default();
        if !types.contains(name) {
            continue;
        }
        seen += 1;
        for (handler, says) in schema["handlers"].as_object().unwrap().iter().filter(|(h, _)| *h != "list") {
            let asked = says["permissions"].as_array().unwrap().iter().filter_map(Value::as_str);
            let missing: Vec<_> = asked.filter(|a| !given.contains(*a)).collect();
            let odd: Vec<_> = missing.iter().filter(|a| !NEVER.contains(a)).collect();
            assert!(odd.is_empty(), "to {handler} {name}: {odd:?}");
            never.extend(missing.into_iter().map(str::to_owned));
        }
    }
    assert_eq!(seen, types.len(), "{types:?}");
    let idle: Vec<_> = NEVER.iter().filter(|n| !never.contains(**n)).collect();
    assert!(idle.is_empty(), "nobody asks for these any more: {idle:?}");
}
