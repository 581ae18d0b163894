//! Callers who come all at once, come twice, go away in the middle, or never let go: the engine answers everybody else.
use anyhow::{Context, Result, ensure};
use futures_util::future::join_all;
use std::{collections::BTreeSet, time::Duration};
use syp_engine::{graph::State, id::InstanceId};
use syp_proto::{
    google::longrunning::{WaitOperationRequest, operations_client::OperationsClient},
    v1::{
        self, AccessPolicy, GetInstanceRequest, ListInstancesRequest, Plane, SetAccessPolicyRequest,
        TransitionInstanceRequest, UpdateInstanceRequest, WatchCostRequest, WatchInstanceEventsRequest,
        WatchInstancesRequest, access_client::AccessClient, access_policy, costs_client::CostsClient,
        instances_client::InstancesClient,
    },
};
use syp_tests::api::{Conn, World, create, refusal};
use tonic::{Code, Status};
use tonic_types::StatusExt;

const ADMIN: Option<&str> = Some("admin@example.com");
const SHOP: &str = "projects/default/instances/shop";
/// Far more than anything here takes, far less than for ever.
const SOON: Duration = Duration::from_secs(60);

fn uuid() -> String {
    let hex = InstanceId::random().to_string();
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

fn allow(member: &str) -> AccessPolicy {
    let rule = access_policy::Rule {
        effect: access_policy::Effect::Allow as i32,
        members: vec![member.into()],
        ..Default::default()
    };
    AccessPolicy { rules: vec![rule], etag: String::new() }
}

fn set(member: &str) -> SetAccessPolicyRequest {
    let (resource, policy) = (SHOP.into(), Some(allow(member)));
    SetAccessPolicyRequest { resource, plane: Plane::Data as i32, policy, ..Default::default() }
}

async fn soon<T>(what: &str, f: impl Future<Output = Result<T, Status>>) -> Result<T> {
    Ok(tokio::time::timeout(SOON, f).await.with_context(|| format!("{what}: no answer"))??)
}

/// A caller who goes away while the disk keeps his write.
async fn goes<T>(w: &World, call: impl Future<Output = Result<T, Status>>) -> Result<()> {
    tokio::select! {
        _ = call => anyhow::bail!("answered before it was on disk"),
        written = tokio::time::timeout(SOON, w.disk.stands_still()) => Ok(written?),
    }
}

#[tokio::test]
async fn eight_ups_of_one_name_at_once_are_one_operation_and_everybody_is_answered() -> Result<()> {
    let w = World::new().await?;
    let mut all = Vec::new();
    for n in 0..8 {
        let mut i = InstancesClient::new(w.connect(ADMIN).await?);
        // some of them are one call that was sent again
        let request_id = if n < 4 { "8d8ac610-566d-4ef0-9c22-186b2a5ed793".to_owned() } else { uuid() };
        all.push(async move {
            i.create_instance(v1::CreateInstanceRequest { request_id, ..create("shop") }).await
        });
    }
    let answers = tokio::time::timeout(SOON, join_all(all)).await.context("no answer")?;
    let names: BTreeSet<String> =
        answers.into_iter().map(|a| a.map(|o| o.into_inner().name)).collect::<Result<_, _>>()?;
    ensure!(names.len() == 1, "one name, one operation: {names:?}");
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    let list = ListInstancesRequest { parent: "projects/-".into(), ..Default::default() };
    ensure!(soon("list", i.list_instances(list)).await?.into_inner().instances.len() == 1, "one instance");
    w.settled("shop", State::Serving).await
}

#[tokio::test]
async fn a_caller_who_goes_away_while_his_change_is_written_leaves_it_whole() -> Result<()> {
    let w = World::new().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    // up: the caller is gone before the disk has answered
    w.disk.hold();
    let mut gone = InstancesClient::new(w.connect(ADMIN).await?);
    Box::pin(goes(&w, gone.create_instance(create("shop")))).await?;
    drop(gone);
    // until the server has seen it
    tokio::time::sleep(Duration::from_secs(1)).await;
    w.disk.release();
    w.settled("shop", State::Serving).await?;
    // a change of the instance, the same
    w.disk.hold();
    let mut gone = AccessClient::new(w.connect(ADMIN).await?);
    goes(&w, gone.set_access_policy(set("user:a@example.com"))).await?;
    drop(gone);
    // until the server has seen it
    tokio::time::sleep(Duration::from_secs(1)).await;
    w.disk.release();
    let mut access = AccessClient::new(w.connect(ADMIN).await?);
    let p = soon("the next change", access.set_access_policy(set("user:b@example.com"))).await?.into_inner();
    ensure!(p.rules[0].members == ["user:b@example.com"], "the last one counts: {p:?}");
    // and everything still works on it
    let down =
        TransitionInstanceRequest { name: SHOP.into(), to: State::Destroyed as i32, ..Default::default() };
    let op = soon("down", i.transition_instance(down)).await?.into_inner();
    let mut ops = OperationsClient::new(w.connect(ADMIN).await?);
    let wait = WaitOperationRequest { name: op.name, ..Default::default() };
    ensure!(soon("its end", ops.wait_operation(wait)).await?.into_inner().done, "down");
    Ok(())
}

#[tokio::test]
async fn open_streams_do_not_keep_the_engine_from_stopping_and_say_why_they_end() -> Result<()> {
    let mut w = World::new().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    i.create_instance(create("shop")).await?;
    w.settled("shop", State::Serving).await?;
    let ask = WatchInstanceEventsRequest { parent: SHOP.into(), ..Default::default() };
    let mut events = i.watch_instance_events(ask).await?.into_inner();
    let ask = WatchInstancesRequest { parent: "projects/-".into(), ..Default::default() };
    let mut instances = i.watch_instances(ask).await?.into_inner();
    let logs = v1::StreamLogsRequest { name: SHOP.into(), follow: true, ..Default::default() };
    let _logs = i.stream_logs(logs).await?.into_inner();
    w.stop(SOON).await?;
    let end = |e: Result<(), Status>| refusal(e);
    let why = end(soon_end(async {
        while events.message().await?.is_some() {}
        Ok(())
    })
    .await?);
    ensure!(why == (Code::Unavailable, "ENGINE_STOPPING".into()), "{why:?}");
    let why = end(soon_end(async {
        while instances.message().await?.is_some() {}
        Ok(())
    })
    .await?);
    ensure!(why == (Code::Unavailable, "ENGINE_STOPPING".into()), "{why:?}");
    Ok(())
}

async fn soon_end(f: impl Future<Output = Result<(), Status>>) -> Result<Result<(), Status>> {
    tokio::time::timeout(SOON, f).await.context("the stream does not end")
}

#[tokio::test]
async fn every_stream_ends_with_the_token_that_opened_it() -> Result<()> {
    let w = World::new().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    i.create_instance(create("shop")).await?;
    w.settled("shop", State::Serving).await?;
    let short = w.connect_for(ADMIN, Duration::from_secs(5)).await?;
    let mut i = InstancesClient::new(short.clone());
    let logs = v1::StreamLogsRequest { name: SHOP.into(), follow: true, ..Default::default() };
    let mut logs = i.stream_logs(logs).await?.into_inner();
    let ask = WatchInstanceEventsRequest { parent: SHOP.into(), ..Default::default() };
    let mut events = i.watch_instance_events(ask).await?.into_inner();
    let ask = WatchCostRequest { name: SHOP.into(), ..Default::default() };
    let mut cost = CostsClient::new(short).watch_cost(ask).await?.into_inner();
    let ends = [
        soon_end(async {
            while logs.message().await?.is_some() {}
            Ok(())
        })
        .await?,
        soon_end(async {
            while events.message().await?.is_some() {}
            Ok(())
        })
        .await?,
        soon_end(async {
            while cost.message().await?.is_some() {}
            Ok(())
        })
        .await?,
    ];
    for e in ends {
        let Err(e) = e else { anyhow::bail!("a stream ended without a word") };
        let reason = e.get_error_details().error_info().map(|i| i.reason.clone());
        ensure!(reason.as_deref() == Some("TOKEN_EXPIRED"), "{e:?}");
    }
    Ok(())
}

/// How often it was changed.
async fn edits(i: &mut InstancesClient<Conn>) -> Result<usize> {
    let ask = v1::ListInstanceEventsRequest { parent: SHOP.into(), page_size: 1000, ..Default::default() };
    let all = i.list_instance_events(ask).await?.into_inner().events;
    Ok(all.iter().filter(|e| e.r#type == "edited").count())
}

#[tokio::test]
async fn a_change_that_is_sent_again_is_made_once() -> Result<()> {
    let w = World::new().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    // maps have no order on the wire: the same request is the same all the same
    let mut ask = v1::CreateInstanceRequest { request_id: uuid(), ..create("shop") };
    let instance = ask.instance.get_or_insert_default();
    let pairs = || (0..12).map(|n| (format!("k{n}"), "v".to_owned()));
    instance.labels.extend(pairs());
    instance.spec.get_or_insert_default().env.extend(pairs());
    let first = i.create_instance(ask.clone()).await?.into_inner().name;
    for _ in 0..20 {
        ensure!(i.create_instance(ask.clone()).await?.into_inner().name == first, "one operation");
    }
    w.settled("shop", State::Serving).await?;
    let get = || GetInstanceRequest { name: SHOP.into(), ..Default::default() };
    // what the engine still writes of its coming up changes the etag too
    let mut tries = 0;
    let update = loop {
        tries += 1;
        let etag = i.get_instance(get()).await?.into_inner().etag;
        let mut instance = v1::Instance { name: SHOP.into(), etag, ..Default::default() };
        instance.labels.insert("team".into(), "a".into());
        let update = UpdateInstanceRequest {
            instance: Some(instance),
            update_mask: Some(prost_types::FieldMask { paths: vec!["labels".into()] }),
            request_id: uuid(),
            ..Default::default()
        };
        match i.update_instance(update.clone()).await {
            Err(s) if s.code() == Code::Aborted && tries < 50 => {}
            done => break done.map(|_| update)?,
        }
    };
    i.update_instance(update).await.context("the etag was right when it was first asked")?;
    ensure!(edits(&mut i).await? == 1, "nothing was changed twice");
    let mut access = AccessClient::new(w.connect(ADMIN).await?);
    let set = SetAccessPolicyRequest { request_id: uuid(), ..set("user:a@example.com") };
    access.set_access_policy(set.clone()).await?;
    access.set_access_policy(set).await?;
    ensure!(edits(&mut i).await? == 2, "nothing was changed twice");
    // of the engine's own policy too
    let control = || SetAccessPolicyRequest {
        policy: Some(allow("user:admin@example.com")),
        request_id: "2ac3b8a2-5f52-4a8e-8a0c-0d93dd8d3f3e".into(),
        allow_self_lockout: true,
        ..Default::default()
    };
    let mut policy = control();
    policy.policy.get_or_insert_default().rules[0].role = v1::Role::Admin as i32;
    let first = access.set_access_policy(policy.clone()).await?.into_inner().etag;
    ensure!(access.set_access_policy(policy).await?.into_inner().etag == first, "once");
    let other = access.set_access_policy(control()).await;
    ensure!(
        refusal(other) == (Code::InvalidArgument, "REQUEST_ID_REUSED".into()),
        "another one under its id"
    );
    Ok(())
}

#[tokio::test]
async fn up_on_a_name_that_is_there_says_what_differs_and_drops_nothing_silently() -> Result<()> {
    let w = World::new().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    let mut first = create("shop");
    first.instance.get_or_insert_default().labels.insert("team".into(), "a".into());
    let first_name = i.create_instance(first.clone()).await?.into_inner().name;
    w.settled("shop", State::Serving).await?;
    ensure!(
        i.create_instance(create("shop")).await?.into_inner().name == first_name,
        "what is left open fits"
    );
    ensure!(i.create_instance(first).await?.into_inner().name == first_name, "the same fits");
    type Change = fn(&mut v1::Instance);
    let changes: [(&str, Change); 6] = [
        ("access", |i| i.spec.get_or_insert_default().access = Some(allow("user:x@example.com"))),
        ("operators", |i| i.spec.get_or_insert_default().operators = Some(allow("user:x@example.com"))),
        ("ttl", |i| {
            i.spec.get_or_insert_default().ttl = Some(prost_types::Duration { seconds: 60, nanos: 0 });
        }),
        ("protect", |i| i.spec.get_or_insert_default().protect = true),
        ("labels", |i| drop(i.labels.insert("team".into(), "b".into()))),
        ("image", |i| i.spec.get_or_insert_default().image = "y".into()),
    ];
    for (field, change) in changes {
        let mut other = create("shop");
        change(other.instance.get_or_insert_default());
        let e = i.create_instance(other).await.err().with_context(|| format!("{field} was dropped"))?;
        ensure!(e.code() == Code::AlreadyExists && e.message().contains(field), "{field}: {e:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_thousand_at_once_do_not_run_over_their_provider() -> Result<()> {
    // long enough that calls of a busy machine are under way at once
    let w = World::of(Duration::from_secs(1)).await?;
    let i = InstancesClient::new(w.connect(ADMIN).await?);
    let all = (0..600).map(|n| {
        let mut i = i.clone();
        async move { i.create_instance(create(&format!("i{n}"))).await }
    });
    for answer in join_all(all).await {
        answer?;
    }
    let mut i = i;
    let list = || ListInstancesRequest { parent: "projects/-".into(), page_size: 1000, ..Default::default() };
    for _ in 0..3_000 {
        let all = i.list_instances(list()).await?.into_inner().instances;
        if all.len() == 600 && all.iter().all(|i| i.state() == State::Serving) {
            let most = w.cloud.most_at_once();
            // preflights are calls too, and callers wait for those themselves
            ensure!((200..=256).contains(&most), "{most} calls at once");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("they do not get there")
}
