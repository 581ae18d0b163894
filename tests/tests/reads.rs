//! Reading: health, reflection, resources, drift, estimates, and streams that go on, begin anew when they must, and never fall silent.
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use syp_engine::graph::State;
use syp_proto::v1::{
    self, CheckDriftRequest, EstimateCostRequest, ListResourcesRequest, StreamLogsRequest,
    TransitionInstanceRequest, WatchInstanceEventsRequest, WatchInstancesRequest, costs_client::CostsClient,
    instances_client::InstancesClient, watch_instance_events_response, watch_instances_response::Event,
};
use syp_tests::api::{Conn, World, create, refusal};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const ADMIN: Option<&str> = Some("admin@example.com");
const SHOP: &str = "projects/default/instances/shop";

async fn serving(w: &World, names: &[&str]) -> Result<InstancesClient<Conn>> {
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    for name in names {
        i.create_instance(create(name)).await?;
        w.settled(name, State::Serving).await?;
    }
    Ok(i)
}

#[tokio::test]
async fn health_is_open_and_reflection_describes_the_api_to_operators() -> Result<()> {
    let w = World::new().await?;
    // a load balancer has no token
    let ask = HealthCheckRequest { service: "syp.v1.Instances".into() };
    let said = HealthClient::new(w.connect(None).await?).check(ask).await?.into_inner();
    ensure!(said.status() == ServingStatus::Serving, "{said:?}");
    let ask = |c: Conn| async move {
        let message_request = Some(MessageRequest::ListServices(String::new()));
        let ask = ServerReflectionRequest { host: String::new(), message_request };
        let one = futures_util::stream::iter([ask]);
        let answer = ServerReflectionClient::new(c).server_reflection_info(one).await?;
        answer.into_inner().message().await
    };
    let Some(MessageResponse::ListServicesResponse(l)) =
        ask(w.connect(ADMIN).await?).await?.context("no answer")?.message_response
    else {
        anyhow::bail!("no list of services")
    };
    let names: Vec<_> = l.service.iter().map(|s| s.name.as_str()).collect();
    for wanted in ["syp.v1.Instances", "google.longrunning.Operations", "syp.v1.Access"] {
        ensure!(names.contains(&wanted), "{wanted} is not described: {names:?}");
    }
    ensure!(ask(w.connect(Some("stranger@example.com")).await?).await.is_err(), "a stranger is told nothing");
    Ok(())
}

#[tokio::test]
async fn resources_are_listed_drift_is_found_and_mended_and_a_price_is_told_before() -> Result<()> {
    let w = World::new().await?;
    let mut i = serving(&w, &["shop"]).await?;
    let ask = ListResourcesRequest { parent: SHOP.into(), ..Default::default() };
    let all = i.list_resources(ask).await?.into_inner().resources;
    ensure!(all.len() == w.cloud.live().len() && !all.is_empty(), "what is there is listed: {all:?}");
    let check = |fix| CheckDriftRequest { name: SHOP.into(), fix, ..Default::default() };
    let report = async |i: &mut InstancesClient<Conn>, fix| -> Result<v1::DriftReport> {
        use syp_proto::google::longrunning::operation::Result as Done;
        match i.check_drift(check(fix)).await?.into_inner().result {
            Some(Done::Response(any)) => Ok(prost::Message::decode(any.value.as_slice())?),
            other => anyhow::bail!("no report: {other:?}"),
        }
    };
    ensure!(!report(&mut i, false).await?.drifted, "nothing differs");
    let victim = w.cloud.live().first().context("nothing")?.clone();
    w.cloud.kill(&victim.id.to_string());
    let found = report(&mut i, false).await?;
    ensure!(found.drifted && found.differences.iter().any(|d| d.id.contains(&victim.key)), "{found:?}");
    ensure!(report(&mut i, false).await?.drifted, "looking mends nothing");
    report(&mut i, true).await?;
    for _ in 0..500 {
        if w.cloud.live().iter().any(|o| o.key == victim.key) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ensure!(w.cloud.live().iter().any(|o| o.key == victim.key), "it is mended");
    let spec = create("x").instance.and_then(|i| i.spec);
    let mut costs = CostsClient::new(w.connect(ADMIN).await?);
    let offers = costs.estimate_cost(EstimateCostRequest { spec, ..Default::default() }).await?.into_inner();
    let offer = offers.offers.first().context("no offer")?;
    ensure!(
        offer.target == "fake" && offer.hourly.is_some() && offer.monthly_always_on.is_some(),
        "{offer:?}"
    );
    Ok(())
}

/// A look takes its time: what begins in the middle of it is told, and not what its providers said before and after.
#[tokio::test]
async fn drift_is_not_told_of_what_changed_while_it_was_looked_for() -> Result<()> {
    let w = World::of(Duration::from_secs(1)).await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    i.create_instance(create("shop")).await?;
    w.settled("shop", State::Serving).await?;
    let looks = || w.cloud.calls().iter().filter(|c| c.starts_with("observe")).count();
    let before = looks();
    let mut other = i.clone();
    let look = tokio::spawn(async move {
        other.check_drift(CheckDriftRequest { name: SHOP.into(), ..Default::default() }).await
    });
    while looks() == before && !look.is_finished() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let down =
        TransitionInstanceRequest { name: SHOP.into(), to: State::Destroyed as i32, ..Default::default() };
    i.transition_instance(down).await?;
    let said = refusal(look.await?);
    ensure!(said.1 == "OPERATION_IN_PROGRESS", "{said:?}");
    Ok(())
}

/// What a watch says up to a word, and then until it has been silent for a while.
async fn said(
    s: &mut tonic::Streaming<v1::WatchInstancesResponse>,
    last: &str,
) -> Result<(Vec<String>, String)> {
    let (mut words, mut token) = (Vec::<String>::new(), String::new());
    let patience = |words: &[String]| if words.iter().any(|w| w == last) { 3 } else { 60 };
    while let Ok(e) = tokio::time::timeout(Duration::from_secs(patience(&words)), s.message()).await {
        let e = e?.context("the stream ended")?;
        token = e.resume_token;
        let short = |i: &v1::Instance| i.name.rsplit('/').next().unwrap_or_default().to_owned();
        words.push(match e.event {
            Some(Event::Added(i)) => format!("added {}", short(&i)),
            Some(Event::Modified(i)) => format!("{} {}", short(&i), i.state().as_str_name()),
            Some(Event::Bookmark(_)) => "all".into(),
            Some(Event::Resync(_)) => "anew".into(),
            other => format!("{other:?}"),
        });
    }
    Ok((words, token))
}

#[tokio::test]
async fn a_watch_is_taken_up_where_it_was_and_begins_anew_where_it_must() -> Result<()> {
    let mut w = World::new().await?;
    let mut i = serving(&w, &["a", "b"]).await?;
    let ask = |token: &str, filter: &str| WatchInstancesRequest {
        parent: "projects/-".into(),
        resume_token: token.into(),
        filter: filter.into(),
        ..Default::default()
    };
    let mut s = i.watch_instances(ask("", "")).await?.into_inner();
    let (words, token) = said(&mut s, "all").await?;
    ensure!(words.len() == 3 && words.last().is_some_and(|w| w == "all"), "a snapshot: {words:?}");
    drop(s);
    let down = |name: &str| TransitionInstanceRequest {
        name: format!("projects/default/instances/{name}"),
        to: State::Destroyed as i32,
        ..Default::default()
    };
    i.transition_instance(down("a")).await?;
    w.settled("a", State::Destroyed).await?;
    // what happened in between is told, and nothing else
    let mut s = i.watch_instances(ask(&token, "")).await?.into_inner();
    let (words, token) = said(&mut s, "a DESTROYED").await?;
    ensure!(words.last().is_some_and(|w| w == "a DESTROYED"), "{words:?}");
    ensure!(words.iter().all(|w| w.starts_with("a ")), "only what changed: {words:?}");
    // with a filter nobody remembers what has left it
    let mut s = i.watch_instances(ask(&token, "state=SERVING")).await?.into_inner();
    let (words, _) = said(&mut s, "all").await?;
    ensure!(words == ["anew", "added b", "all"], "{words:?}");
    // of another process
    w.kill().await;
    w.start().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    let mut s = i.watch_instances(ask(&token, "")).await?.into_inner();
    let (words, _) = said(&mut s, "all").await?;
    ensure!(words == ["anew", "added b", "all"], "{words:?}");
    Ok(())
}

#[tokio::test]
async fn a_silent_stream_beats_so_that_no_proxy_cuts_it() -> Result<()> {
    let w = World::new().await?;
    let mut i = serving(&w, &["shop"]).await?;
    let ask = WatchInstancesRequest { parent: "projects/-".into(), ..Default::default() };
    let mut instances = i.watch_instances(ask).await?.into_inner();
    let ask = WatchInstanceEventsRequest { parent: SHOP.into(), ..Default::default() };
    let mut events = i.watch_instance_events(ask).await?.into_inner();
    let ask = StreamLogsRequest { name: SHOP.into(), follow: true, ..Default::default() };
    let mut logs = i.stream_logs(ask).await?.into_inner();
    let beats = async {
        let of_instances = async {
            while let Some(e) = instances.message().await? {
                if matches!(e.event, Some(Event::Heartbeat(_))) {
                    break;
                }
            }
            anyhow::Ok(())
        };
        let of_events = async {
            while let Some(e) = events.message().await? {
                if matches!(e.event, Some(watch_instance_events_response::Event::Heartbeat(_))) {
                    break;
                }
            }
            anyhow::Ok(())
        };
        let of_logs = async {
            while let Some(e) = logs.message().await? {
                if e.heartbeat {
                    break;
                }
            }
            anyhow::Ok(())
        };
        futures_util::try_join!(of_instances, of_events, of_logs)
    };
    // every 20 s
    tokio::time::timeout(Duration::from_secs(40), beats).await.context("silent for 40 s")??;
    Ok(())
}
