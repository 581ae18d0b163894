//! The life of a stack by a user who holds the operator's policy of `bootstrap.yaml` and nothing else, on an emulator that evaluates
//! policies. Which role is passed, and what that one may, it does not ask: that half is proven by nobody.
use super::{
    emulator_tests::Emulator,
    tests::{PAUSE, with},
    *,
};
use crate::aws::{change_set, template::render, variants};
use aws_credential_types::Credentials;
use std::process::Command;
use syp_engine::id::InstanceId;
use syp_proto::v1::InstanceSpec;

const ROLE: &str = "arn:aws:iam::000000000000:role/sypctl/sypctl-cloudformation";

impl Emulator {
    /// In an account that its administrator has made ready: a user who holds the operator's policy, and one who holds none.
    pub(in crate::aws) async fn users(&self) -> (Credentials, Credentials) {
        let url = self.url.clone();
        tokio::task::spawn_blocking(move || users(&url)).await.unwrap()
    }
}

fn users(url: &str) -> (Credentials, Credentials) {
    let program = std::env::var_os("SYP_TEST_MINISTACK").unwrap();
    let python = std::path::Path::new(&program).with_file_name("python");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let script = format!("{root}/tests/testbed/aws/bootstrap.py");
    let made =
        Command::new(python).args([&script, url, &format!("{root}/deploy/aws/bootstrap.yaml")]).output();
    let made = made.unwrap();
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    let [key, secret, other, others_secret] = said.lines().collect::<Vec<_>>()[..] else {
        panic!("no users: {}", String::from_utf8_lossy(&made.stderr));
    };
    let of = |key, secret| Credentials::new(key, secret, None, None, "test");
    (of(key, secret), of(other, others_secret))
}

#[tokio::test]
async fn the_operators_policy_is_enough_for_a_stacks_life_and_for_nothing_else() {
    let Some(emulator) = Emulator::ministack(true).await else { return };
    let (keys, _) = emulator.users().await;
    let s = Stacks::new(with(&emulator.url, 1, keys.clone()), ROLE, PAUSE * 200);
    let owner = Owner { uid: InstanceId::random(), ..variants::owner() };
    let site = variants::site();
    let rendered = |revision: &str| {
        let env = [("REVISION".to_owned(), revision.to_owned())].into();
        render(&owner, &InstanceSpec { env, ..variants::spec() }, &site)
    };
    let ((one, first), (two, second)) = (rendered("one"), rendered("two"));
    let (w1, w2) = (
        Wanted { owner: &owner, template: &one, digest: &first, token: "one" },
        Wanted { owner: &owner, template: &two, digest: &second, token: "two" },
    );
    let id = s.bring(&w1, &|_| {}).await.unwrap().id;
    let told = change_set::told(s.preview(&id, "sypctl-plan-1", &w2).await.unwrap());
    assert!(told.contains("TaskDefinition (AWS::ECS::TaskDefinition)"), "{told}");
    assert_eq!(s.bring(&w2, &|_| {}).await.unwrap().held.status, "UPDATE_COMPLETE");
    assert_eq!(s.drift(&id).await.unwrap(), Vec::<String>::new());

    let config = aws_sdk_secretsmanager::config::Builder::new()
        .behavior_version(aws_sdk_secretsmanager::config::BehaviorVersion::latest())
        .region(aws_sdk_secretsmanager::config::Region::new("us-east-1"))
        .endpoint_url(&emulator.url)
        .credentials_provider(keys.clone());
    let secrets = aws_sdk_secretsmanager::Client::from_conf(config.build());
    let name = format!("sypctl/{}/x", owner.uid);
    secrets.create_secret().name(&name).secret_string("x").send().await.unwrap();
    secrets.put_secret_value().secret_id(&name).secret_string("y").send().await.unwrap();
    secrets.describe_secret().secret_id(&name).send().await.unwrap();
    let read = secrets.get_secret_value().secret_id(&name).send().await.unwrap_err();
    assert_eq!(code(&read), "AccessDeniedException", "what it holds is never read");
    secrets.delete_secret().secret_id(&name).force_delete_without_recovery(true).send().await.unwrap();
    let foreign = secrets.create_secret().name("prod/db").secret_string("x").send().await.unwrap_err();
    assert_eq!(code(&foreign), "AccessDeniedException");

    let create = s.client.create_stack().stack_name("prod-db").template_body(&one);
    assert_eq!(code(&create.role_arn(ROLE).send().await.unwrap_err()), "AccessDenied");

    assert_eq!(s.remove(&owner, Some(&id), &|_| {}).await.unwrap(), (true, BTreeSet::new()));
}
