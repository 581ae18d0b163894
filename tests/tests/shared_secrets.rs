//! Shared secrets over the API: who may, what a new version comes to, and what is let go; over crashes too.
use anyhow::{Context, Result, ensure};
use secrecy::ExposeSecret;
use std::time::Duration;
use syp_engine::{engine::Engine, fault::Point, store::Kv};
use syp_proto::{
    google::longrunning::{GetOperationRequest, operations_client::OperationsClient},
    v1::{
        self, AccessPolicy, AddSecretVersionRequest, CreateSecretRequest, DeleteSecretRequest,
        GetInstanceRequest, GetSecretRequest, Instance, InstanceSpec, ListSecretsRequest,
        RollbackInstanceRequest, Secret, SecretRef, SecretVersion, SetAccessPolicyRequest,
        UpdateInstanceRequest, UpdateSecretRequest,
        access_client::AccessClient,
        access_policy::{Effect, Rule},
        audit_client::AuditClient,
        instances_client::InstancesClient,
        secrets_client::SecretsClient,
    },
};
use syp_tests::api::{Conn, World, create, refusal, settled};
use tonic::Code;

const ADMIN: Option<&str> = Some("admin@example.com");
const ALICE: Option<&str> = Some("alice@example.com");
const BOB: Option<&str> = Some("bob@example.com");
const PARENT: &str = "projects/default";
const PW: &str = "projects/default/secrets/pw";
const FIRST: &[u8] = b"the-first-value-4711";
const SECOND: &[u8] = b"the-second-value-4712";
const THIRD: &[u8] = b"the-third-value-4713";

fn rule(member: &str, role: v1::Role) -> Rule {
    Rule {
        effect: Effect::Allow as i32,
        members: vec![member.into()],
        role: role as i32,
        ..Default::default()
    }
}

/// Alice and Bob may make instances of their own.
async fn world() -> Result<World> {
    let w = World::new().await?;
    let mut access = AccessClient::new(w.connect(ADMIN).await?);
    let rules = vec![
        rule("user:admin@example.com", v1::Role::Admin),
        rule("user:alice@example.com", v1::Role::Operator),
        rule("user:bob@example.com", v1::Role::Operator),
    ];
    let policy = Some(AccessPolicy { rules, ..Default::default() });
    access.set_access_policy(SetAccessPolicyRequest { policy, ..Default::default() }).await?;
    Ok(w)
}

struct Who {
    secrets: SecretsClient<Conn>,
    instances: InstancesClient<Conn>,
    engine: Engine,
}

async fn as_(w: &World, who: Option<&str>) -> Result<Who> {
    let c = w.connect(who).await?;
    let (secrets, instances) = (SecretsClient::new(c.clone()), InstancesClient::new(c));
    Ok(Who { secrets, instances, engine: w.api()?.engine })
}

fn new(id: &str, value: &[u8]) -> CreateSecretRequest {
    CreateSecretRequest {
        parent: PARENT.into(),
        secret_id: id.into(),
        payload: value.into(),
        ..Default::default()
    }
}

fn version(value: &[u8]) -> AddSecretVersionRequest {
    AddSecretVersionRequest { parent: PW.into(), payload: value.into(), ..Default::default() }
}

fn env(name: &str, version: &str) -> SecretRef {
    SecretRef { secret: "pw".into(), env: name.into(), version: version.into(), ..Default::default() }
}

fn full(name: &str) -> String {
    format!("{PARENT}/instances/{name}")
}

impl Who {
    async fn serve(&mut self, name: &str, secrets: Vec<SecretRef>) -> Result<()> {
        let mut r = create(name);
        r.instance.get_or_insert_default().spec.get_or_insert_default().secrets = secrets;
        Box::pin(self.instances.create_instance(r)).await?;
        self.settled(name).await
    }

    async fn get(&mut self, name: &str) -> Result<Instance> {
        let ask = GetInstanceRequest { name: full(name), ..Default::default() };
        Ok(self.instances.get_instance(ask).await?.into_inner())
    }

    async fn settled(&self, name: &str) -> Result<()> {
        settled(&self.engine, name, v1::instance::State::Serving).await
    }

    /// Which version an instance has.
    async fn bound(&mut self, name: &str) -> Result<String> {
        self.settled(name).await?;
        let i = self.get(name).await?;
        Ok(i.spec.unwrap_or_default().secrets.first().context("no secret")?.version.clone())
    }

    /// Until an instance has a version.
    async fn comes_to(&mut self, name: &str, version: &str) -> Result<()> {
        for _ in 0..500 {
            if self.bound(name).await? == version {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("{name} is at {}, not at {version}", self.bound(name).await?)
    }

    async fn secret(&mut self) -> Result<Secret> {
        Ok(self.secrets.get_secret(GetSecretRequest { name: PW.into() }).await?.into_inner())
    }

    /// Until the newest version is everywhere; numbers of the versions that are kept then.
    async fn rolled_out(&mut self) -> Result<Vec<String>> {
        for _ in 0..500 {
            let s = self.secret().await?;
            if !s.rolling_out {
                return Ok(numbers(&s));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::bail!("still rolling out: {:?}", self.secret().await?)
    }

    async fn add(&mut self, value: &[u8]) -> Result<SecretVersion> {
        Ok(self.secrets.add_secret_version(version(value)).await?.into_inner())
    }

    async fn set(&mut self, name: &str, spec: InstanceSpec, path: &str) -> Result<(), tonic::Status> {
        let instance = Some(Instance { name: full(name), spec: Some(spec), ..Default::default() });
        let update_mask = Some(prost_types::FieldMask { paths: vec![path.into()] });
        let ask = UpdateInstanceRequest { instance, update_mask, ..Default::default() };
        Box::pin(self.instances.update_instance(ask)).await.map(drop)
    }

    async fn back(&mut self, name: &str, to: &str) -> Result<(), tonic::Status> {
        let ask = RollbackInstanceRequest { name: full(name), revision_id: to.into(), ..Default::default() };
        self.instances.rollback_instance(ask).await.map(drop)
    }
}

fn numbers(s: &Secret) -> Vec<String> {
    s.versions.iter().map(|v| v.name.rsplit('/').next().unwrap_or_default().to_owned()).collect()
}

/// Whether the disk has these bytes anywhere, as they are or in hexadecimal.
fn on_disk(w: &World, what: &[u8]) -> Result<bool> {
    let hex: String = what.iter().map(|b| format!("{b:02x}")).collect();
    let all = w.disk.scan(&[], &[0xff], usize::MAX, false)?;
    let has = |v: &[u8], n: &[u8]| v.windows(n.len()).any(|x| x == n);
    Ok(all.iter().any(|(k, v)| [k, v].iter().any(|b| has(b, what) || has(b, hex.as_bytes()))))
}

/// Sealed values on the disk.
fn sealed(w: &World) -> Result<usize> {
    Ok(w.disk.scan(b"k|", b"k}", usize::MAX, false)?.len())
}

/// What a step would be given.
async fn given(w: &World, name: &str) -> Result<Vec<u8>> {
    let e = w.api()?.engine;
    let cell = e.by_name("default", name).context("no such instance")?;
    let r = cell.get().spec.clone().unwrap_or_default().secrets.first().context("no secret")?.clone();
    let value = e.context(&cell).secrets.get(&r).await.map_err(|f| anyhow::anyhow!(f.message))?;
    Ok(value.expose_secret().to_vec())
}

async fn is_sound(w: &World) -> Result<()> {
    let mut server = v1::server_client::ServerClient::new(w.connect(ADMIN).await?);
    let fsck = server.check_store(v1::CheckStoreRequest {}).await?.into_inner();
    ensure!(fsck.problems.is_empty(), "{fsck:?}");
    Ok(())
}

#[tokio::test]
async fn a_new_version_comes_to_those_that_follow_and_to_nobody_else() -> Result<()> {
    let w = world().await?;
    let mut a = as_(&w, ALICE).await?;
    let made = a.secrets.create_secret(new("pw", FIRST)).await?.into_inner();
    ensure!((made.name.as_str(), made.latest_version.as_str()) == (PW, "1"), "{made:?}");
    ensure!(made.creator == "user:alice@example.com" && made.versions.len() == 1, "{made:?}");
    ensure!(
        refusal(a.secrets.create_secret(new("pw", FIRST)).await)
            == (Code::AlreadyExists, "SECRET_EXISTS".into())
    );
    a.serve("follows", vec![env("DB", "")]).await?;
    a.serve("pinned", vec![env("DB", "1")]).await?;
    a.serve("without", vec![]).await?;
    // `up` again is the same, with another secret it is not
    for (secrets, want) in [
        (vec![env("DB", "")], Code::Ok),
        (vec![SecretRef { pinned: true, ..env("DB", "1") }], Code::AlreadyExists),
    ] {
        let mut r = create("follows");
        r.instance.get_or_insert_default().spec.get_or_insert_default().secrets = secrets;
        ensure!(refusal(a.instances.create_instance(r).await).0 == want);
    }
    ensure!(given(&w, "follows").await? == FIRST);
    let uses = a.secret().await?.uses;
    let told: Vec<_> = uses.iter().map(|u| (u.revision.as_str(), u.pinned, u.serving)).collect();
    ensure!(told == [("follows-1", false, true), ("pinned-1", true, true)], "{uses:?}");

    let before = a.get("without").await?;
    let v = a.add(SECOND).await?;
    ensure!(v.name == format!("{PW}/versions/2") && v.rollouts.len() == 1, "{v:?}");
    ensure!(v.rollouts[0].instance == full("follows"), "{v:?}");
    let mut ops = OperationsClient::new(w.connect(ALICE).await?);
    let op = ops.get_operation(GetOperationRequest { name: v.rollouts[0].operation.clone() }).await?;
    let meta = op.into_inner().metadata.context("metadata")?;
    ensure!(String::from_utf8_lossy(&meta.value).contains("rotate"), "the operation says what it is");
    a.comes_to("follows", "2").await?;
    ensure!(given(&w, "follows").await? == SECOND && given(&w, "pinned").await? == FIRST);
    ensure!(a.get("without").await?.etag == before.etag, "it was not touched");
    ensure!(a.bound("pinned").await? == "1");
    // the same value again is no version, one that is not to be rolled out is
    ensure!(a.add(SECOND).await?.rollouts.is_empty() && a.secret().await?.latest_version == "2");
    let quiet = AddSecretVersionRequest { no_rollout: true, ..version(THIRD) };
    a.secrets.add_secret_version(quiet).await?;
    ensure!(a.bound("follows").await? == "2" && a.secret().await?.latest_version == "3");
    // whoever binds now gets the newest
    a.serve("later", vec![env("DB", "")]).await?;
    ensure!(a.bound("later").await? == "3");
    // a change of something else is not the time to follow
    a.set("follows", InstanceSpec { image: "y".into(), ..Default::default() }, "spec.image").await?;
    ensure!(a.bound("follows").await? == "2");
    for value in [FIRST, SECOND, THIRD] {
        ensure!(!on_disk(&w, value)?, "a value is in the store");
    }
    ensure!(on_disk(&w, b"pw")?, "we look where it would be");
    let list = ListSecretsRequest { parent: "projects/-".into(), ..Default::default() };
    let all = a.secrets.list_secrets(list).await?.into_inner().secrets;
    ensure!(all.len() == 1 && all[0].bound_instances.len() == 3, "{all:?}");
    let ask = v1::ListAuditEventsRequest { filter: "method=AddSecretVersion".into(), ..Default::default() };
    let audit = AuditClient::new(w.connect(ADMIN).await?).list_audit_events(ask).await?.into_inner();
    ensure!(audit.audit_events.len() == 3 && audit.audit_events[0].targets == [PW], "{audit:?}");
    is_sound(&w).await
}

#[tokio::test]
async fn what_was_gone_back_from_is_not_made_again_and_its_value_is_there() -> Result<()> {
    let mut w = world().await?;
    let mut a = as_(&w, ALICE).await?;
    a.secrets.create_secret(new("pw", FIRST)).await?;
    a.serve("shop", vec![env("DB", "")]).await?;
    a.add(SECOND).await?;
    a.comes_to("shop", "2").await?;
    ensure!(a.rolled_out().await? == ["1", "2"], "one can go back to the first");
    a.back("shop", "shop-1").await?;
    a.comes_to("shop", "1").await?;
    ensure!(given(&w, "shop").await? == FIRST);
    w.kill().await;
    w.start().await?;
    let mut a = as_(&w, ALICE).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(a.bound("shop").await? == "1", "nobody asked for the second again");
    // it follows all the same
    a.add(THIRD).await?;
    a.comes_to("shop", "3").await?;
    // to stay is a change of its own, and takes no replica away
    let pin = |version: &str, pinned| SecretRef { pinned, ..env("DB", version) };
    a.set("shop", InstanceSpec { secrets: vec![pin("3", true)], ..Default::default() }, "spec.secrets")
        .await?;
    a.settled("shop").await?;
    ensure!(a.add(FIRST).await?.rollouts.is_empty(), "it is pinned");
    ensure!(a.bound("shop").await? == "3");
    a.set("shop", InstanceSpec { secrets: vec![env("DB", "")], ..Default::default() }, "spec.secrets")
        .await?;
    a.comes_to("shop", "4").await?;
    ensure!(given(&w, "shop").await? == FIRST);
    is_sound(&w).await
}

#[tokio::test]
async fn nobody_reads_another_s_secret_through_an_image() -> Result<()> {
    let w = world().await?;
    let (mut a, mut b) = (as_(&w, ALICE).await?, as_(&w, BOB).await?);
    let mut admin = as_(&w, ADMIN).await?;
    let denied = (Code::PermissionDenied, "PERMISSION_DENIED".to_owned());
    a.secrets.create_secret(new("pw", FIRST)).await?;
    a.serve("shop", vec![env("DB", "")]).await?;
    // Bob may make instances, and see what the secret is called
    ensure!(b.secret().await?.bound_instances == [full("shop")]);
    let mut mine = create("mine");
    mine.instance.get_or_insert_default().spec.get_or_insert_default().secrets = vec![env("X", "")];
    ensure!(refusal(b.instances.create_instance(mine.clone()).await) == denied, "his own image");
    mine.instance.get_or_insert_default().spec.get_or_insert_default().secrets = vec![env("X", "1")];
    ensure!(refusal(b.instances.create_instance(mine).await) == denied, "nor a version of it");
    b.serve("mine", vec![]).await?;
    let take = InstanceSpec { secrets: vec![env("X", "")], ..Default::default() };
    ensure!(refusal(b.set("mine", take, "spec.secrets").await) == denied);
    // nor by what runs where it is bound, nor by letting himself in there
    let image = InstanceSpec { image: "his".into(), ..Default::default() };
    ensure!(refusal(b.set("shop", image.clone(), "spec.image").await) == denied);
    let args = InstanceSpec { args: vec!["env".into()], ..Default::default() };
    ensure!(refusal(b.set("shop", args, "spec.args").await) == denied);
    let other = InstanceSpec { secrets: vec![env("Y", "1")], ..Default::default() };
    ensure!(refusal(b.set("shop", other, "spec.secrets").await) == denied);
    let me = Some(AccessPolicy {
        rules: vec![rule("user:bob@example.com", v1::Role::Operator)],
        ..Default::default()
    });
    let grab = InstanceSpec { operators: me.clone(), ..Default::default() };
    ensure!(refusal(b.set("shop", grab, "spec.operators").await) == denied);
    let set = SetAccessPolicyRequest {
        resource: full("shop"),
        plane: v1::Plane::Control as i32,
        policy: me.clone(),
        ..Default::default()
    };
    let mut access = AccessClient::new(w.connect(BOB).await?);
    ensure!(refusal(access.set_access_policy(set).await) == denied);
    ensure!(refusal(b.secrets.add_secret_version(version(SECOND)).await) == denied, "nor change it");
    let rm = DeleteSecretRequest { name: PW.into(), ..Default::default() };
    ensure!(refusal(b.secrets.delete_secret(rm).await) == denied);
    let secret = Some(Secret { name: PW.into(), operators: me, ..Default::default() });
    let mask = Some(prost_types::FieldMask { paths: vec!["operators".into()] });
    let open = UpdateSecretRequest { secret, update_mask: mask, ..Default::default() };
    ensure!(refusal(b.secrets.update_secret(open.clone()).await) == denied);
    // he drives it all the same
    let scale = v1::Scaling { min: 2, max: 2, ..Default::default() };
    b.set("shop", InstanceSpec { scaling: Some(scale), ..Default::default() }, "spec.scaling").await?;
    a.settled("shop").await?;
    // who has no role at all does not even hear that there is one
    let mut nobody = as_(&w, Some("carol@example.com")).await?;
    ensure!(
        refusal(nobody.secrets.get_secret(GetSecretRequest { name: PW.into() }).await).0 == Code::NotFound
    );
    let list = ListSecretsRequest { parent: "projects/-".into(), ..Default::default() };
    ensure!(nobody.secrets.list_secrets(list).await?.into_inner().secrets.is_empty());
    // an administrator may, and whoever is let in may; nobody shuts themselves out
    let alone = refusal(a.secrets.update_secret(open.clone()).await);
    ensure!(alone.1 == "SELF_LOCKOUT", "{alone:?}");
    admin.secrets.update_secret(open).await?;
    b.set("mine", InstanceSpec { secrets: vec![env("X", "")], ..Default::default() }, "spec.secrets").await?;
    b.comes_to("mine", "1").await?;
    b.set("shop", image, "spec.image").await?;
    a.settled("shop").await?;
    // Alice has the instance still: she may keep what is bound there, and not take it elsewhere
    ensure!(refusal(a.secrets.add_secret_version(version(SECOND)).await) == denied);
    a.set("shop", InstanceSpec { image: "z".into(), ..Default::default() }, "spec.image").await?;
    a.settled("shop").await?;
    let elsewhere = InstanceSpec { secrets: vec![env("DB", ""), env("E", "")], ..Default::default() };
    ensure!(refusal(a.set("shop", elsewhere, "spec.secrets").await) == denied);
    Ok(())
}

#[tokio::test]
async fn requests_are_checked_repeated_and_refused_in_words() -> Result<()> {
    let w = world().await?;
    let mut a = as_(&w, ALICE).await?;
    let id = |n: u8| uuid::Uuid::from_bytes([n; 16]).to_string();
    let try_it = CreateSecretRequest { validate_only: true, ..new("pw", FIRST) };
    a.secrets.create_secret(try_it.clone()).await?;
    ensure!(refusal(a.secrets.get_secret(GetSecretRequest { name: PW.into() }).await).0 == Code::NotFound);
    let first = CreateSecretRequest { request_id: id(1), ..new("pw", FIRST) };
    let made = a.secrets.create_secret(first.clone()).await?.into_inner();
    ensure!(a.secrets.create_secret(first.clone()).await?.into_inner() == made, "one request, one secret");
    let other = CreateSecretRequest { payload: SECOND.into(), ..first };
    ensure!(
        refusal(a.secrets.create_secret(other).await).1 == "REQUEST_ID_REUSED",
        "with another value it is another"
    );
    ensure!(refusal(a.secrets.create_secret(try_it).await).1 == "SECRET_EXISTS");
    a.serve("shop", vec![env("DB", "")]).await?;
    a.serve("file", vec![SecretRef { file: "/k".into(), env: String::new(), ..env("", "") }]).await?;
    for (wrong, code) in [
        (AddSecretVersionRequest { payload: vec![], ..version(b"") }, Code::InvalidArgument),
        (version(&vec![b'x'; 70_000]), Code::InvalidArgument),
        // 'shop' has it as a variable
        (version(&[0, 255]), Code::InvalidArgument),
        (AddSecretVersionRequest { etag: "\"old\"".into(), ..version(SECOND) }, Code::Aborted),
        (
            AddSecretVersionRequest { etag: "\"old\"".into(), validate_only: true, ..version(SECOND) },
            Code::Aborted,
        ),
        (
            AddSecretVersionRequest { parent: "projects/default/secrets/nope".into(), ..version(SECOND) },
            Code::NotFound,
        ),
    ] {
        let got = refusal(a.secrets.add_secret_version(wrong).await);
        ensure!(got.0 == code, "{got:?} is not {code:?}");
    }
    let only_tried = AddSecretVersionRequest { validate_only: true, ..version(SECOND) };
    a.secrets.add_secret_version(only_tried).await?;
    ensure!(a.secret().await?.latest_version == "1", "nothing was done");
    let etag = a.secret().await?.etag;
    let ask = AddSecretVersionRequest { request_id: id(2), etag, ..version(SECOND) };
    let one = a.secrets.add_secret_version(ask.clone()).await?.into_inner();
    let two = a.secrets.add_secret_version(ask).await?.into_inner();
    ensure!(one.name == two.name && one.rollouts.len() == 2, "{one:?} {two:?}");
    a.comes_to("shop", "2").await?;
    a.comes_to("file", "2").await?;
    let used = refusal(
        a.secrets
            .delete_secret(DeleteSecretRequest { name: PW.into(), force: true, ..Default::default() })
            .await,
    );
    ensure!(used == (Code::FailedPrecondition, "SECRET_IN_USE".into()), "{used:?}");
    for wrong in ["nope", "pw@9", "projects/other/secrets/pw", "own"] {
        let (secret, version) = wrong.split_once('@').unwrap_or((wrong, ""));
        let r = SecretRef { secret: secret.into(), ..env("N", version) };
        let spec = InstanceSpec { secrets: vec![r], ..Default::default() };
        let got = refusal(a.set("shop", spec, "spec.secrets").await);
        ensure!(matches!(got.0, Code::NotFound | Code::InvalidArgument), "{wrong}: {got:?}");
    }
    ensure!(refusal(a.secrets.create_secret(new("own", FIRST)).await).0 == Code::InvalidArgument);
    // only earlier revisions are left: not unless one says so, and then one can't go back to them
    let none = InstanceSpec::default();
    for name in ["shop", "file"] {
        a.set(name, none.clone(), "spec.secrets").await?;
        a.settled(name).await?;
    }
    let rm =
        |force, n| DeleteSecretRequest { name: PW.into(), force, request_id: id(n), ..Default::default() };
    let said = a.secrets.delete_secret(rm(false, 3)).await.err().context("it is refused")?;
    ensure!(said.message().contains("shop (an earlier revision)"), "{said:?}");
    a.secrets.delete_secret(rm(true, 4)).await?;
    a.secrets.delete_secret(rm(true, 4)).await?;
    ensure!(refusal(a.secrets.get_secret(GetSecretRequest { name: PW.into() }).await).0 == Code::NotFound);
    ensure!(sealed(&w)? == 0, "its values went with it");
    ensure!(refusal(a.back("shop", "shop-1").await).0 == Code::NotFound);
    // the name is free, and no number means two values
    let again = a.secrets.create_secret(new("pw", THIRD)).await?.into_inner();
    ensure!(again.latest_version == "3", "{again:?}");
    is_sound(&w).await
}

#[tokio::test]
async fn what_no_revision_refers_to_is_let_go() -> Result<()> {
    let mut w = world().await?;
    let mut a = as_(&w, ALICE).await?;
    a.secrets.create_secret(new("pw", b"value 1")).await?;
    let own =
        |n: usize| SecretRef { secret: String::new(), value: format!("own {n}").into(), ..env("OWN", "") };
    a.serve("stays", vec![env("DB", "1")]).await?;
    a.serve("shop", vec![env("DB", ""), own(0)]).await?;
    for n in 2..=28 {
        a.add(format!("value {n}").as_bytes()).await?;
        a.comes_to("shop", &n.to_string()).await?;
        // its own too, so that each round makes two revisions
        let spec = InstanceSpec { secrets: vec![env("DB", ""), own(n)], ..Default::default() };
        a.set("shop", spec, "spec.secrets").await?;
        a.settled("shop").await?;
    }
    let kept = a.rolled_out().await?;
    ensure!(kept.len() < 15 && kept[0] == "1" && kept.last().is_some_and(|v| v == "28"), "{kept:?}");
    let revisions = v1::ListInstanceRevisionsRequest { parent: full("shop"), ..Default::default() };
    let all = a.instances.list_instance_revisions(revisions).await?.into_inner().instance_revisions;
    let refs =
        all.iter().flat_map(|r| r.snapshot.clone().unwrap_or_default().spec.unwrap_or_default().secrets);
    let mut own: Vec<_> = refs.filter(|r| r.secret == "own").map(|r| r.version).collect();
    own.sort();
    own.dedup();
    ensure!(sealed(&w)? == kept.len() + own.len(), "{} {kept:?} {own:?}", sealed(&w)?);
    // the oldest that is known can still be gone back to
    let oldest = all.iter().min_by_key(|r| r.name.rsplit('-').next().and_then(|n| n.parse::<u32>().ok()));
    let oldest = oldest.and_then(|r| r.name.rsplit('/').next()).context("a revision")?.to_owned();
    a.back("shop", &oldest).await?;
    a.settled("shop").await?;
    given(&w, "shop").await?;
    w.kill().await;
    w.start().await?;
    let mut a = as_(&w, ALICE).await?;
    for name in ["shop", "stays"] {
        given(&w, name).await?;
        let down = v1::TransitionInstanceRequest {
            name: full(name),
            to: v1::instance::State::Destroyed as i32,
            ..Default::default()
        };
        a.instances.transition_instance(down).await?;
    }
    for _ in 0..500 {
        if a.secret().await?.uses.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    a.secrets.delete_secret(DeleteSecretRequest { name: PW.into(), ..Default::default() }).await?;
    ensure!(sealed(&w)? == 0, "nothing is left");
    Ok(())
}

#[tokio::test]
async fn whoever_is_busy_is_waited_for() -> Result<()> {
    let w = world().await?;
    let mut a = as_(&w, ALICE).await?;
    a.secrets.create_secret(new("pw", FIRST)).await?;
    a.serve("shop", vec![env("DB", "")]).await?;
    let to = |state: v1::instance::State| v1::TransitionInstanceRequest {
        name: full("shop"),
        to: state as i32,
        ..Default::default()
    };
    a.instances.transition_instance(to(v1::instance::State::Draining)).await?;
    let v = a.add(SECOND).await?;
    ensure!(v.rollouts.len() == 1 && v.rollouts[0].operation.is_empty(), "{v:?}");
    ensure!(!v.rollouts[0].waiting_for.is_empty() && a.secret().await?.rolling_out, "{v:?}");
    // a still newer one takes its place
    a.add(THIRD).await?;
    for _ in 0..500 {
        if a.instances.transition_instance(to(v1::instance::State::Serving)).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    a.comes_to("shop", "3").await?;
    ensure!(a.rolled_out().await? == ["1", "3"], "the second was never anybody's");
    Ok(())
}

/// Killed right after the version is on disk, and after each of the operations that follow.
#[tokio::test]
async fn after_a_kill_the_rest_still_get_it_and_nobody_twice() -> Result<()> {
    let names = ["one", "two", "three"];
    for nth in 1..=4 {
        let mut w = world().await?;
        let mut a = as_(&w, ALICE).await?;
        a.secrets.create_secret(new("pw", FIRST)).await?;
        for name in names {
            a.serve(name, vec![env("DB", "")]).await?;
        }
        w.stand_still_at(Point::OutcomeSynced, "secret pw", nth);
        let mut asks = as_(&w, ALICE).await?;
        let ask = tokio::spawn(async move { asks.secrets.add_secret_version(version(SECOND)).await });
        w.stands_still().await;
        w.kill().await;
        ask.abort();
        w.start().await?;
        let mut a = as_(&w, ALICE).await?;
        ensure!(a.secret().await?.latest_version == "2", "it was acknowledged by the disk");
        for name in names {
            a.comes_to(name, "2").await.with_context(|| format!("killed at hit {nth}"))?;
            ensure!(given(&w, name).await? == SECOND);
        }
        a.rolled_out().await?;
        for name in names {
            a.settled(name).await?;
            let i = a.get(name).await?;
            ensure!(i.active_revision == format!("{name}-2"), "killed at hit {nth}: twice: {i:?}");
        }
        is_sound(&w).await?;
    }
    Ok(())
}
