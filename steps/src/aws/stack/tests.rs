use super::{
    scripted::{Cloud, Fault, Made},
    *,
};
use crate::aws::{change_set, template::render, variants};
use aws_credential_types::{
    Credentials,
    provider::{ProvideCredentials, error::CredentialsError, future},
};
use aws_sdk_cloudformation::config::{BehaviorVersion, Builder, Region, retry::RetryConfig};
use syp_proto::v1::InstanceSpec;

pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// `tries` of the SDK: with one, what it would hide is ours to survive; with more it asks again for what may have been done.
pub(super) fn client(url: &str, tries: u32) -> Client {
    with(url, tries, Credentials::new("id", "secret", None, None, "test"))
}

pub(super) fn with(url: &str, tries: u32, keys: Credentials) -> Client {
    let how = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(url)
        .credentials_provider(keys)
        .retry_config(RetryConfig::standard().with_max_attempts(tries).with_initial_backoff(PAUSE));
    Client::from_conf(how.build())
}

const ROLE: &str = "arn:aws:iam::123456789012:role/sypctl/sypctl-cloudformation";

fn stacks(cloud: &Cloud) -> Stacks {
    stacks_at(&cloud.url)
}

pub(super) fn stacks_at(url: &str) -> Stacks {
    Stacks::new(client(url, 1), ROLE, PAUSE)
}

pub(super) struct Template {
    pub text: String,
    pub digest: String,
    pub token: &'static str,
}

pub(super) fn template(revision: &'static str) -> Template {
    let env = [("REVISION".to_owned(), revision.to_owned())].into();
    let (text, digest) =
        render(&variants::owner(), &InstanceSpec { env, ..variants::spec() }, &variants::site());
    Template { text, digest, token: revision }
}

/// One attempt.
async fn once(s: &Stacks, t: &Template) -> Result<Stack, Failure> {
    let owner = variants::owner();
    s.bring(&Wanted { owner: &owner, template: &t.text, digest: &t.digest, token: t.token }, &|_| {}).await
}

/// As the engine does: again, until it is done or can't be.
pub(super) async fn bring(s: &Stacks, t: &Template) -> Result<Stack, Failure> {
    for _ in 0..20 {
        match once(s, t).await {
            Err(f) if Class::parse(&f.class) != Class::Terminal => {}
            done => return done,
        }
    }
    panic!("it does not end");
}

async fn remove(s: &Stacks) -> (bool, BTreeSet<String>) {
    remove_this(s, None).await
}

async fn remove_this(s: &Stacks, id: Option<&str>) -> (bool, BTreeSet<String>) {
    for _ in 0..20 {
        match s.remove(&variants::owner(), id, &|_| {}).await {
            Ok(done) => return done,
            Err(f) => assert_ne!(Class::parse(&f.class), Class::Terminal, "{f:?}"),
        }
    }
    panic!("it does not end");
}

fn left(cloud: &Cloud) -> Vec<String> {
    cloud.stacks().into_iter().filter(|s| s.status != "DELETE_COMPLETE").map(|s| s.status).collect()
}

#[tokio::test]
async fn a_stack_comes_changes_and_goes_and_each_time_again_is_nothing() {
    let cloud = Cloud::start().await;
    let (s, one, two) = (stacks(&cloud), template("one"), template("two"));
    let made = bring(&s, &one).await.unwrap();
    assert_eq!(made.held.status, "CREATE_COMPLETE");
    assert_eq!(made.outputs["ClusterName"], "c");
    assert_eq!(bring(&s, &one).await.unwrap().id, made.id);
    let changed = bring(&s, &two).await.unwrap();
    assert_eq!((changed.id.as_str(), changed.held.digest.as_str()), (made.id.as_str(), two.digest.as_str()));
    assert_eq!(remove(&s).await, (true, BTreeSet::new()));
    assert_eq!(remove(&s).await, (false, BTreeSet::new()));
    let changes: Vec<_> = cloud.calls().into_iter().filter(|c| c.ends_with("Stack")).collect();
    assert_eq!(changes, ["CreateStack", "UpdateStack", "DeleteStack"]);
}

/// Each call of a whole life, each fault, with an SDK that asks again by itself and one that does not: the same end, one stack that ever
/// was, nothing left.
#[tokio::test]
async fn whatever_call_is_lost_the_end_is_the_same() {
    let life = async |cloud: &Cloud, tries: u32| {
        let s = Stacks::new(client(&cloud.url, tries), ROLE, PAUSE);
        bring(&s, &template("one")).await.unwrap();
        let changed = bring(&s, &template("two")).await.unwrap();
        assert_eq!(changed.held.digest, template("two").digest);
        remove(&s).await
    };
    let cloud = Cloud::start().await;
    assert_eq!(life(&cloud, 1).await, (true, BTreeSet::new()));
    let calls = cloud.calls();
    for fault in [
        Fault::Reset,
        Fault::Lost,
        Fault::Refused("Throttling", 400),
        Fault::Refused("ExpiredToken", 403),
        Fault::Refused("ServiceUnavailable", 503),
    ] {
        for (nth, call) in calls.iter().enumerate() {
            for tries in [1, 3] {
                let cloud = Cloud::start().await;
                cloud.fault(nth, fault);
                let (_, kept) = life(&cloud, tries).await;
                assert!(kept.is_empty(), "{fault:?} {nth} {call}");
                assert_eq!(cloud.stacks().len(), 1, "{fault:?} {nth} {call}");
                assert_eq!(left(&cloud), Vec::<String>::new(), "{fault:?} {nth} {call}");
            }
        }
    }
}

/// What a change set says, and what differs, whichever call is lost; neither does anything.
#[tokio::test]
async fn what_an_update_would_do_is_told_and_what_was_changed_by_hand_is_found() {
    let life = async |cloud: &Cloud| {
        let (s, owner, two) = (stacks(cloud), variants::owner(), template("two"));
        let id = bring(&s, &template("one")).await.unwrap().id;
        cloud.tamper("TaskSecurityGroup");
        let w = Wanted { owner: &owner, template: &two.text, digest: &two.digest, token: "two" };
        let (mut told, mut found) = (None, None);
        for n in 0..3 {
            if told.is_none() {
                told = s.preview(&id, &format!("plan-{n}"), &w).await.ok().map(change_set::told);
            }
            if found.is_none() {
                found = s.drift(&id).await.ok();
            }
        }
        assert_eq!(bring(&s, &template("one")).await.unwrap().held.token, "one", "nothing was done");
        remove(&s).await;
        assert!(left(cloud).is_empty());
        (told.unwrap(), found.unwrap())
    };
    let cloud = Cloud::start().await;
    let first = life(&cloud).await;
    let line = "AWS replaces    TaskDefinition (AWS::ECS::TaskDefinition): Properties\n";
    assert_eq!(first, (line.to_owned(), vec!["TaskSecurityGroup/Port is 1, not 8080".to_owned()]));
    let asked = |c: &str| c.contains("ChangeSet") || c.contains("Drift");
    for fault in [Fault::Reset, Fault::Lost, Fault::Refused("Throttling", 400)] {
        for (nth, call) in cloud.calls().iter().enumerate().filter(|(_, c)| asked(c)) {
            let again = Cloud::start().await;
            again.fault(nth, fault);
            assert_eq!(life(&again).await, first, "{fault:?} {nth} {call}");
        }
    }
}

#[tokio::test]
async fn what_could_not_be_compared_is_never_told_as_the_same() {
    let cloud = Cloud::start().await;
    let s = stacks(&cloud);
    let id = bring(&s, &template("one")).await.unwrap().id;
    assert_eq!(s.drift(&id).await.unwrap(), Vec::<String>::new());
    for why in ["", "no right to ec2:DescribeSecurityGroups"] {
        cloud.blind(Some(why));
        let f = s.drift(&id).await.unwrap_err();
        assert!(f.reason == "PROVIDER_REFUSED" && f.message.contains(why), "{f:?}");
    }
    cloud.tamper("TaskSecurityGroup");
    let found = s.drift(&id).await.unwrap();
    assert_eq!(found.len(), 2, "what differs, and that it is not all: {found:?}");
    assert!(found[1].contains("no right to"), "{found:?}");
}

#[tokio::test]
async fn a_create_that_fails_says_what_failed_first_and_the_next_makes_room() {
    let cloud = Cloud::start().await;
    let s = stacks(&cloud);
    cloud.script(
        "CreateStack",
        &[
            "- CREATE_IN_PROGRESS",
            "LogGroup CREATE_FAILED /sypctl/x already exists",
            "Service CREATE_FAILED Resource creation cancelled",
            "- ROLLBACK_IN_PROGRESS",
            "- ROLLBACK_COMPLETE",
        ],
    );
    let f = bring(&s, &template("one")).await.unwrap_err();
    assert_eq!(f.reason, "STACK_FAILED");
    assert!(f.message.contains("ROLLBACK_COMPLETE: LogGroup: /sypctl/x already exists"), "{}", f.message);
    assert!(bring(&s, &template("two")).await.is_ok());
    assert_eq!((cloud.stacks().len(), left(&cloud).len()), (2, 1));
    remove(&s).await;
    assert!(left(&cloud).is_empty());
}

#[tokio::test]
async fn an_update_that_fails_leaves_what_was_there_and_its_stuck_rollback_goes_on() {
    let cloud = Cloud::start().await;
    let s = stacks(&cloud);
    bring(&s, &template("one")).await.unwrap();
    cloud.script(
        "UpdateStack",
        &[
            "- UPDATE_IN_PROGRESS",
            "TaskDefinition UPDATE_FAILED no such image",
            "- UPDATE_ROLLBACK_IN_PROGRESS",
            "Service UPDATE_FAILED no capacity",
            "- UPDATE_ROLLBACK_FAILED",
        ],
    );
    let f = bring(&s, &template("two")).await.unwrap_err();
    assert_eq!(f.reason, "STACK_FAILED");
    assert!(f.message.contains("UPDATE_ROLLBACK_COMPLETE"), "{}", f.message);
    assert!(cloud.calls().contains(&"ContinueUpdateRollback".to_owned()));
    // a repair towards what it was has nothing to do, and the next update begins from there
    let calls = cloud.calls().len();
    assert!(bring(&s, &Template { token: "repair", ..template("one") }).await.is_ok());
    assert!(cloud.calls()[calls..].iter().all(|c| !c.ends_with("UpdateStack")));
    assert!(bring(&s, &template("three")).await.is_ok());
    remove(&s).await;
    assert!(left(&cloud).is_empty());
}

#[tokio::test]
async fn a_teardown_in_the_middle_of_anything_ends_with_nothing() {
    for (script, what) in [
        (
            "CreateStack",
            ["- CREATE_IN_PROGRESS", "A CREATE_IN_PROGRESS", "B CREATE_IN_PROGRESS", "- CREATE_COMPLETE"],
        ),
        (
            "CreateStack",
            ["- CREATE_IN_PROGRESS", "A CREATE_FAILED no", "- ROLLBACK_IN_PROGRESS", "- ROLLBACK_FAILED"],
        ),
        (
            "UpdateStack",
            ["- UPDATE_IN_PROGRESS", "A UPDATE_IN_PROGRESS", "B UPDATE_IN_PROGRESS", "- UPDATE_COMPLETE"],
        ),
        (
            "UpdateStack",
            [
                "- UPDATE_IN_PROGRESS",
                "A UPDATE_FAILED no",
                "- UPDATE_ROLLBACK_IN_PROGRESS",
                "- UPDATE_ROLLBACK_FAILED",
            ],
        ),
    ] {
        // left after so many looks
        for looks in 0..12 {
            let cloud = Cloud::start().await;
            let s = stacks(&cloud);
            if script == "UpdateStack" {
                bring(&s, &template("one")).await.unwrap();
            }
            cloud.script(script, &what);
            let begun = cloud.calls().len();
            let task = tokio::spawn({
                let s = s.clone();
                async move { drop(once(&s, &template("two")).await) }
            });
            for _ in 0..1_000 {
                if cloud.calls().len() > begun + looks || task.is_finished() {
                    break;
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            task.abort();
            let _ = task.await;
            remove(&s).await;
            assert!(left(&cloud).is_empty(), "{what:?} {looks}: {:?}", left(&cloud));
        }
    }
}

#[tokio::test]
async fn what_does_not_go_is_asked_for_again_and_then_named() {
    let stuck =
        ["- DELETE_IN_PROGRESS", "TaskSecurityGroup DELETE_FAILED has a dependent object", "- DELETE_FAILED"];
    let life = async |cloud: &Cloud, times: u32| {
        let s = stacks(cloud);
        let id = bring(&s, &template("one")).await.unwrap().id;
        (0..times).for_each(|_| cloud.script("DeleteStack", &stuck));
        remove_this(&s, Some(&id)).await
    };
    for times in 1..=4 {
        let cloud = Cloud::start().await;
        // interfaces are let go of late: it goes in the end, unless it never does
        let (_, kept) = life(&cloud, times).await;
        assert!(left(&cloud).is_empty(), "{times}: {:?}", left(&cloud));
        let named = if times >= status::DELETIONS { vec!["TaskSecurityGroup".to_owned()] } else { vec![] };
        assert_eq!(kept.into_iter().collect::<Vec<_>>(), named, "{times}");
        // told whichever answer is lost
        for nth in 0..cloud.calls().len() {
            let again = Cloud::start().await;
            again.fault(nth, Fault::Lost);
            let (_, kept) = life(&again, times).await;
            assert_eq!(kept.into_iter().collect::<Vec<_>>(), named, "{times} {nth}");
        }
    }
}

/// The ledger knows the first one's ARN; whoever made the second was killed before it could say so.
#[tokio::test]
async fn one_that_was_made_after_the_known_one_goes_too() {
    let cloud = Cloud::start().await;
    let (s, one, owner) = (stacks(&cloud), template("one"), variants::owner());
    let first = bring(&s, &one).await.unwrap().id;
    remove(&s).await;
    let second = bring(&s, &one).await.unwrap().id;
    assert_ne!(first, second);
    let heard = parking_lot::Mutex::new(BTreeSet::new());
    let hear = |s: &Stack| {
        heard.lock().insert(s.id.clone());
    };
    assert_eq!(s.remove_all(&owner, Some(&first), false, &hear).await.unwrap(), (false, BTreeSet::new()));
    assert_eq!(left(&cloud), ["CREATE_COMPLETE"], "without a doubt nobody looks for another one");
    assert_eq!(s.remove_all(&owner, Some(&first), true, &hear).await.unwrap(), (true, BTreeSet::new()));
    assert_eq!(left(&cloud), Vec::<String>::new());
    assert_eq!(heard.into_inner(), [first, second].into());
}

#[tokio::test]
async fn somebody_elses_stack_of_our_name_is_never_touched() {
    let cloud = Cloud::start().await;
    let s = stacks(&cloud);
    cloud.put(Made {
        id: "arn:theirs".into(),
        name: names::stack(&variants::owner()),
        status: "CREATE_COMPLETE".into(),
        ..Made::default()
    });
    let f = bring(&s, &template("one")).await.unwrap_err();
    assert_eq!(f.reason, "NAME_CONFLICT");
    assert_eq!(remove(&s).await, (false, BTreeSet::new()));
    assert!(cloud.calls().iter().all(|c| c == "DescribeStacks"), "{:?}", cloud.calls());
}

/// Nobody is logged in.
#[derive(Debug)]
struct Nobody;

impl ProvideCredentials for Nobody {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(Err(CredentialsError::not_loaded("the session is over")))
    }
}

#[tokio::test]
async fn without_credentials_a_person_is_asked_to_log_in() {
    let cloud = Cloud::start().await;
    let how = Builder::new()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(&cloud.url)
        .credentials_provider(Nobody)
        .retry_config(RetryConfig::disabled());
    let s = Stacks::new(Client::from_conf(how.build()), "", PAUSE);
    let f = once(&s, &template("one")).await.unwrap_err();
    assert_eq!((f.reason.as_str(), Class::parse(&f.class)), ("CREDENTIALS", Class::Transient), "{f:?}");
    assert!(f.message.contains("the session is over") && cloud.calls().is_empty(), "{f:?}");
}
