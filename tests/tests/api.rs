//! What every client may count on: idempotent requests, dry runs, etags, masks, pages, watches that go on, and refusals with reasons.
use anyhow::{Context, Result, ensure};
use std::{collections::BTreeSet, time::Duration};
use syp_engine::{graph::State, id::InstanceId};
use syp_proto::{
    google::longrunning::{
        CancelOperationRequest, GetOperationRequest, ListOperationsRequest, Operation, WaitOperationRequest,
        operations_client::OperationsClient,
    },
    v1::{
        self, GetInstanceRequest, ListInstancesRequest, TransitionInstanceRequest, UpdateInstanceRequest,
        WatchInstanceEventsRequest, WatchInstancesRequest, instances_client::InstancesClient,
        operation_event, operation_events_client::OperationEventsClient, watch_instance_events_response,
        watch_instances_response,
    },
};
use syp_tests::api::{Conn, World, create, refusal};
use tonic::{Code, Request};

const ADMIN: Option<&str> = Some("admin@example.com");
const SHOP: &str = "projects/default/instances/shop";

fn uuid() -> String {
    // ours are random and of the right form
    let hex = InstanceId::random().to_string();
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

async fn clients(w: &World) -> Result<(InstancesClient<Conn>, OperationsClient<Conn>)> {
    let c = w.connect(ADMIN).await?;
    Ok((InstancesClient::new(c.clone()), OperationsClient::new(c)))
}

async fn done(ops: &mut OperationsClient<Conn>, op: Operation) -> Result<Operation> {
    let timeout = Some(prost_types::Duration { seconds: 20, nanos: 0 });
    let op = ops.wait_operation(WaitOperationRequest { name: op.name, timeout }).await?.into_inner();
    ensure!(op.done, "not done: {op:?}");
    Ok(op)
}

async fn up(w: &World, name: &str) -> Result<()> {
    let (mut i, mut ops) = clients(w).await?;
    let op = i.create_instance(create(name)).await?.into_inner();
    done(&mut ops, op).await.map(drop)
}

fn to(state: State) -> TransitionInstanceRequest {
    TransitionInstanceRequest { name: SHOP.into(), to: state as i32, ..Default::default() }
}

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_and_makes_one_instance() -> Result<()> {
    let mut w = World::new().await?;
    let ask = v1::CreateInstanceRequest { request_id: uuid(), ..create("shop") };
    let (mut i, mut ops) = clients(&w).await?;
    let first = i.create_instance(ask.clone()).await?.into_inner();
    let again = i.create_instance(ask.clone()).await?.into_inner();
    ensure!(first.name == again.name, "one request, one operation");
    done(&mut ops, first.clone()).await?;
    // also by the next process
    w.kill().await;
    w.start().await?;
    let (mut i, _) = clients(&w).await?;
    let later = i.create_instance(ask.clone()).await?.into_inner();
    ensure!(first.name == later.name, "the answer survives a restart");
    let mut other = ask;
    other.instance_id = "other".into();
    ensure!(refusal(i.create_instance(other).await) == (Code::InvalidArgument, "REQUEST_ID_REUSED".into()));
    let all =
        i.list_instances(ListInstancesRequest { parent: "projects/-".into(), ..Default::default() }).await?;
    ensure!(all.into_inner().instances.len() == 1, "one instance");
    Ok(())
}

#[tokio::test]
async fn a_dry_run_checks_everything_and_changes_nothing() -> Result<()> {
    let w = World::new().await?;
    let (mut i, _) = clients(&w).await?;
    let op = i.create_instance(v1::CreateInstanceRequest { validate_only: true, ..create("shop") }).await?;
    ensure!(op.into_inner().name.is_empty(), "no operation");
    let mut bad = v1::CreateInstanceRequest { validate_only: true, ..create("shop") };
    bad.instance_id = "Not A Name".into();
    ensure!(refusal(i.create_instance(bad).await).0 == Code::InvalidArgument, "it is checked all the same");
    ensure!(refusal(i.get_instance(get(SHOP)).await).0 == Code::NotFound, "nothing was made");
    up(&w, "shop").await?;
    i.transition_instance(TransitionInstanceRequest { validate_only: true, ..to(State::Destroyed) }).await?;
    let now = i.get_instance(get(SHOP)).await?.into_inner();
    ensure!(now.state() == State::Serving && now.current_operation.is_empty(), "nothing has begun");
    ensure!(w.cloud.live().len() == 4, "the cloud has what it had");
    Ok(())
}

fn get(name: &str) -> GetInstanceRequest {
    GetInstanceRequest { name: name.into(), read_mask: None }
}

#[tokio::test]
async fn etags_guards_and_edges_are_kept() -> Result<()> {
    let w = World::new().await?;
    let (mut i, mut ops) = clients(&w).await?;
    up(&w, "shop").await?;
    let stale = TransitionInstanceRequest { etag: "\"another\"".into(), ..to(State::Draining) };
    ensure!(refusal(i.transition_instance(stale).await) == (Code::Aborted, "ETAG_MISMATCH".into()));
    let guard = TransitionInstanceRequest { if_state: State::Draining as i32, ..to(State::Destroyed) };
    ensure!(
        refusal(i.transition_instance(guard).await) == (Code::FailedPrecondition, "STATE_DIFFERS".into())
    );
    let back = i.transition_instance(to(State::Provisioning)).await;
    ensure!(refusal(back) == (Code::FailedPrecondition, "TRANSITION_NOT_ALLOWED".into()));
    // what the engine still writes of its coming up changes the etag too: whoever is told so reads it again
    let mut tries = 0;
    let op = loop {
        tries += 1;
        let etag = i.get_instance(get(SHOP)).await?.into_inner().etag;
        match i.transition_instance(TransitionInstanceRequest { etag, ..to(State::Destroyed) }).await {
            Err(s) if s.code() == Code::Aborted && tries < 50 => {}
            done => break done?.into_inner(),
        }
    };
    done(&mut ops, op).await?;
    ensure!(w.cloud.live().is_empty(), "the cloud is empty");
    // absent on destroy is success
    let again = i.transition_instance(to(State::Destroyed)).await?.into_inner();
    ensure!(again.done, "destroyed already");
    let receipt =
        i.get_teardown_receipt(v1::GetTeardownReceiptRequest { name: SHOP.into(), verify_now: true }).await?;
    let receipt = receipt.into_inner();
    ensure!(receipt.created_count == 4 && receipt.verified_gone_count == 4, "{receipt:?}");
    Ok(())
}

#[tokio::test]
async fn masks_keep_what_they_name_and_change_nothing_else() -> Result<()> {
    let w = World::new().await?;
    let (mut i, _) = clients(&w).await?;
    up(&w, "shop").await?;
    let mask =
        |paths: &[&str]| Some(prost_types::FieldMask { paths: paths.iter().map(|p| (*p).into()).collect() });
    let few = GetInstanceRequest { read_mask: mask(&["name", "state"]), ..get(SHOP) };
    let few = i.get_instance(few).await?.into_inner();
    ensure!(few.name == SHOP && few.state() == State::Serving && few.uid.is_empty() && few.spec.is_none());
    let bad = GetInstanceRequest { read_mask: mask(&["nonsense"]), ..get(SHOP) };
    ensure!(refusal(i.get_instance(bad).await).0 == Code::InvalidArgument, "unknown path");
    let before = i.get_instance(get(SHOP)).await?.into_inner();
    let mut new = before.clone();
    new.labels = [("team".to_owned(), "a".to_owned())].into();
    new.state = State::Destroyed as i32;
    let ask = UpdateInstanceRequest {
        instance: Some(new.clone()),
        update_mask: mask(&["labels"]),
        ..Default::default()
    };
    i.update_instance(ask).await?;
    let after = i.get_instance(get(SHOP)).await?.into_inner();
    ensure!(after.labels.get("team").is_some_and(|t| t == "a"), "the label is there");
    ensure!(after.state() == State::Serving && after.spec == before.spec, "what is not named stays");
    ensure!(after.etag != before.etag, "another etag");
    // what an instance stands on can't be changed, and what is not there is said
    for (field, reason) in [
        ("spec.target", "IMMUTABLE_FIELD"),
        ("spec.publish", "IMMUTABLE_FIELD"),
        ("spec.nope", "INVALID_ARGUMENT"),
    ] {
        let ask = UpdateInstanceRequest {
            instance: Some(new.clone()),
            update_mask: mask(&[field]),
            ..Default::default()
        };
        ensure!(refusal(i.update_instance(ask).await).1 == reason, "{field}");
    }
    Ok(())
}

#[tokio::test]
async fn pages_cover_a_list_once_and_a_token_is_of_its_question() -> Result<()> {
    let w = World::new().await?;
    let (mut i, _) = clients(&w).await?;
    for n in 0..7 {
        i.create_instance(create(&format!("n{n}"))).await?;
    }
    let ask = |page_token: String, filter: &str| ListInstancesRequest {
        parent: "projects/default".into(),
        page_size: 3,
        page_token,
        filter: filter.into(),
        ..Default::default()
    };
    let (mut names, mut token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let page = i.list_instances(ask(token.clone(), "")).await?.into_inner();
        names.extend(page.instances.into_iter().map(|i| i.name));
        pages += 1;
        if page.next_page_token.is_empty() {
            break;
        }
        token = page.next_page_token;
    }
    ensure!(pages == 3 && names.len() == 7 && names.iter().collect::<BTreeSet<_>>().len() == 7, "{names:?}");
    ensure!(
        refusal(i.list_instances(ask(token, "state=SERVING")).await).0 == Code::InvalidArgument,
        "another question"
    );
    ensure!(refusal(i.list_instances(ask(String::new(), "colour=red")).await).0 == Code::InvalidArgument);
    Ok(())
}

/// Events of a watch, until one is the wanted one.
async fn events(w: &World, resume_token: &str, until: &str) -> Result<Vec<v1::InstanceEvent>> {
    let (mut i, _) = clients(w).await?;
    let ask = WatchInstanceEventsRequest { parent: SHOP.into(), resume_token: resume_token.into() };
    let mut stream = i.watch_instance_events(ask).await?.into_inner();
    let mut out = Vec::new();
    let end = tokio::time::sleep(Duration::from_secs(20));
    tokio::pin!(end);
    loop {
        let next = tokio::select! {
            n = stream.message() => n?,
            () = &mut end => anyhow::bail!("'{until}' never came: {out:?}"),
        };
        if let Some(watch_instance_events_response::Event::Item(e)) = next.context("the watch ended")?.event {
            let last = e.message == until;
            out.push(e);
            if last {
                return Ok(out);
            }
        }
    }
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_without_a_gap_also_after_a_restart() -> Result<()> {
    let mut w = World::new().await?;
    up(&w, "shop").await?;
    let first = events(&w, "", "PROVISIONING -> SERVING").await?;
    w.kill().await;
    w.start().await?;
    let (mut i, _) = clients(&w).await?;
    i.transition_instance(to(State::Destroyed)).await?;
    let token = first.last().context("events")?.seq.to_string();
    let rest = events(&w, &token, "DRAINING -> DESTROYED").await?;
    let seqs: Vec<i64> = first.iter().chain(&rest).map(|e| e.seq).collect();
    ensure!(seqs == (1..=i64::try_from(seqs.len())?).collect::<Vec<_>>(), "a gap or a repetition: {seqs:?}");
    Ok(())
}

#[tokio::test]
async fn a_watch_of_all_begins_with_what_is_there_and_tells_what_changes() -> Result<()> {
    use watch_instances_response::Event;
    let w = World::of(Duration::from_millis(200)).await?;
    up(&w, "shop").await?;
    let (mut i, _) = clients(&w).await?;
    let ask = WatchInstancesRequest { parent: "projects/default".into(), ..Default::default() };
    let mut stream = i.watch_instances(ask).await?.into_inner();
    let (mut complete, mut seen) = (false, BTreeSet::new());
    let watch = async {
        while let Some(m) = stream.message().await? {
            match m.event {
                Some(Event::Bookmark(b)) if b.snapshot_complete && !complete => {
                    ensure!(seen.contains("SERVING"), "the snapshot has what is there: {seen:?}");
                    complete = true;
                    clients(&w).await?.0.transition_instance(to(State::Destroyed)).await?;
                }
                Some(Event::Added(i) | Event::Modified(i)) => {
                    seen.insert(i.state().as_str_name().to_owned());
                    if i.state() == State::Destroyed {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        anyhow::bail!("the watch ended: {seen:?}")
    };
    tokio::time::timeout(Duration::from_secs(20), watch).await??;
    ensure!(seen.contains("DRAINING"), "every state is told: {seen:?}");
    Ok(())
}

#[tokio::test]
async fn an_operation_is_followed_to_its_end_and_read_afterwards() -> Result<()> {
    let w = World::of(Duration::from_millis(200)).await?;
    let (mut i, mut ops) = clients(&w).await?;
    let op = i.create_instance(create("shop")).await?.into_inner();
    let mut e = OperationEventsClient::new(w.connect(ADMIN).await?);
    let ask = v1::WatchOperationRequest { name: op.name.clone(), resume_token: String::new() };
    let mut stream = e.watch_operation(ask).await?.into_inner();
    let mut steps = BTreeSet::new();
    let end = loop {
        let next = tokio::time::timeout(Duration::from_secs(20), stream.message()).await??;
        match next.context("the watch ended")?.event {
            Some(operation_event::Event::Step(s)) => drop(steps.insert(s.id)),
            Some(operation_event::Event::Done(o)) => break o,
            _ => {}
        }
    };
    ensure!(end.done && end.result.is_some(), "{end:?}");
    ensure!(steps.contains("d"), "its last step was told: {steps:?}");
    // a destroyed instance's operations can still be read
    let op2 = i.transition_instance(to(State::Destroyed)).await?.into_inner();
    done(&mut ops, op2).await?;
    ensure!(ops.get_operation(GetOperationRequest { name: op.name }).await?.into_inner().done);
    let all = ops.list_operations(ListOperationsRequest { name: SHOP.into(), ..Default::default() }).await?;
    ensure!(all.into_inner().operations.len() == 2, "up and down");
    Ok(())
}

#[tokio::test]
async fn one_operation_at_a_time_and_destroy_preempts() -> Result<()> {
    let w = World::of(Duration::from_millis(200)).await?;
    let (mut i, mut ops) = clients(&w).await?;
    let first = i.create_instance(create("shop")).await?.into_inner();
    let second = i.transition_instance(to(State::Draining)).await;
    ensure!(refusal(second).0 != Code::Ok, "nothing to drain yet");
    let down = i.transition_instance(to(State::Destroyed)).await?.into_inner();
    done(&mut ops, down).await?;
    let first = ops.get_operation(GetOperationRequest { name: first.name }).await?.into_inner();
    ensure!(first.done, "the first is over");
    ensure!(w.cloud.live().is_empty(), "nothing is left");
    // a teardown can't be cancelled: it would leave things behind
    up(&w, "shop").await?;
    let down = i.transition_instance(to(State::Destroyed)).await?.into_inner();
    let cancel = ops.cancel_operation(CancelOperationRequest { name: down.name.clone() }).await;
    ensure!(refusal(cancel).0 == Code::FailedPrecondition || done(&mut ops, down.clone()).await.is_ok());
    done(&mut ops, down).await.map(drop)
}

#[tokio::test]
async fn without_a_token_every_method_is_closed_and_a_stranger_sees_nothing() -> Result<()> {
    let w = World::new().await?;
    up(&w, "shop").await?;
    let mut nobody = tonic::client::Grpc::new(w.connect(None).await?);
    let mut asked = 0;
    for s in syp_proto::pool().context("descriptors")?.services() {
        let package = s.package_name().to_owned();
        if !matches!(package.as_str(), "syp.v1" | "google.longrunning") {
            continue;
        }
        for m in s.methods() {
            let path = format!("/{}/{}", s.full_name(), m.name()).parse()?;
            nobody.ready().await?;
            let codec = tonic_prost::ProstCodec::<(), ()>::default();
            let answer = nobody.unary(Request::new(()), path, codec).await.map(drop);
            let code = refusal(answer).0;
            ensure!(
                matches!(code, Code::Unauthenticated | Code::PermissionDenied),
                "{} answers {code:?} without a token",
                m.full_name()
            );
            asked += 1;
        }
    }
    ensure!(asked > 40, "only {asked} methods");
    let mut stranger = InstancesClient::new(w.connect(Some("stranger@example.com")).await?);
    let seen = stranger
        .list_instances(ListInstancesRequest { parent: "projects/-".into(), ..Default::default() })
        .await;
    ensure!(seen.map_or(true, |l| l.into_inner().instances.is_empty()), "a stranger sees no instance");
    ensure!(refusal(stranger.get_instance(get(SHOP)).await).0 != Code::Ok, "nor one by its name");
    ensure!(refusal(stranger.transition_instance(to(State::Destroyed)).await).0 != Code::Ok, "nor ends it");
    Ok(())
}
