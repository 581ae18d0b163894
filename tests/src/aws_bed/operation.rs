//! One operation on a stack: what it changes of it, step by step, for as long as no other operation has taken over.
use super::{
    cloudformation::{happened, tags_of},
    definition, front, scheduler,
    template::{Scope, named},
    world::{Group, Resource, Shared, Stack, World, now},
};
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// Why an operation does not go on.
pub enum Stop {
    /// Another one has taken over, or the bed ends.
    Over,
    /// A resource did not become what it should.
    Failed(String),
}

/// `Stop` in the place of a value.
pub type Step<T> = Result<T, Stop>;

/// An operation.
pub struct Operation {
    pub shared: Arc<Shared>,
    /// ARN of the stack.
    pub id: String,
    epoch: u64,
}

/// How a failed step of a stack is told: whatever the handler said.
pub fn handler(words: &str) -> String {
    format!("Resource handler returned message: \"{words}\"")
}

// === impl Operation ===

impl Operation {
    /// Takes over, in this status.
    pub fn begin(shared: &Arc<Shared>, id: &str, token: &str, status: &str) -> Self {
        let epoch = shared.with(|w| {
            let Some(s) = w.stack_mut(id) else { return 0 };
            s.epoch += 1;
            s.busy += 1;
            token.clone_into(&mut s.token);
            enter(s, status, if status.contains("ROLLBACK") { "" } else { "User Initiated" });
            s.epoch
        });
        Self { shared: Arc::clone(shared), id: id.to_owned(), epoch }
    }

    /// Runs it, and tells that it has ended.
    pub fn run<F: Future<Output = Step<()>> + Send + 'static>(
        self,
        work: impl FnOnce(Arc<Self>) -> F + Send + 'static,
    ) {
        tokio::spawn(async move {
            let this = Arc::new(self);
            let _ = work(Arc::clone(&this)).await;
            this.shared.with(|w| w.stack_mut(&this.id).map(|s| s.busy -= 1));
        });
    }

    /// Changes the stack.
    pub fn stack<T>(&self, change: impl FnOnce(&mut Stack) -> T) -> Step<T> {
        self.world(|_, s| change(s))
    }

    /// Changes the world, of which the stack is a part that is given apart.
    fn world<T>(&self, change: impl FnOnce(&Shared, &mut Stack) -> T) -> Step<T> {
        self.shared.with(|w| {
            let closing = w.closing;
            let s = w.stack_mut(&self.id).filter(|s| s.epoch == self.epoch && !closing).ok_or(Stop::Over)?;
            Ok(change(&self.shared, s))
        })
    }

    /// Waits for something, unless the operation is over before.
    pub async fn until<T>(&self, mut look: impl FnMut(&World, &Stack) -> Option<T>) -> Step<T> {
        let look = |w: &World| match w.stack(&self.id) {
            Some(s) if s.epoch == self.epoch && !w.closing => look(w, s).map(Ok),
            _ => Some(Err(Stop::Over)),
        };
        self.shared.until(look).await
    }

    /// Others that were at it have noticed that they are over.
    pub async fn alone(&self) -> Step<()> {
        self.until(|_, s| (s.busy <= 1).then_some(())).await
    }

    /// A status, which lasts as long as statuses do here.
    pub async fn status(&self, status: &str, reason: &str) -> Step<()> {
        self.stack(|s| enter(s, status, reason))?;
        self.lasts().await
    }

    /// The status that it is in, for as long as statuses do here.
    pub async fn lasts(&self) -> Step<()> {
        let pause: Duration = self.shared.see(|w| w.slow);
        tokio::time::sleep(pause).await;
        self.stack(|_| ())
    }

    /// An event of a resource.
    pub fn tell(&self, logical: &str, status: &str, reason: &str) -> Step<()> {
        self.stack(|s| {
            let r = s.shape.resources.get(logical).cloned().unwrap_or_default();
            let of_template = s.shape.template["Resources"][logical]["Type"].as_str().unwrap_or_default();
            let kind = if r.kind.is_empty() { of_template.to_owned() } else { r.kind };
            happened(s, (logical, &r.physical, &kind), status, reason);
        })
    }

    /// A resource of the template as it is wanted, references resolved.
    pub fn wanted(&self, logical: &str) -> Step<(String, Value)> {
        self.world(|shared, s| {
            let of = &s.shape.template["Resources"][logical];
            let resources = &s.shape.resources;
            let scope = Scope { shared, stack_name: &s.name, stack_id: &s.id, resources };
            let properties = scope.resolve(&of["Properties"])?;
            Ok((of["Type"].as_str().unwrap_or_default().to_owned(), properties))
        })?
        .map_err(Stop::Failed)
    }

    /// Makes a resource, with all its events.
    pub async fn make(&self, logical: &str) -> Step<()> {
        self.tell(logical, "CREATE_IN_PROGRESS", "")?;
        let (kind, properties) = self.wanted(logical)?;
        let name = self.stack(|s| s.name.clone())?;
        let (physical, attributes) = named(&self.shared, &name, logical, &kind, &properties);
        let mut r = Resource { kind, physical, attributes, properties };
        match r.kind.as_str() {
            "AWS::Logs::LogGroup" => self.group(&r.physical)?,
            "AWS::ElasticLoadBalancingV2::LoadBalancer" => {
                let at = front::start(&self.shared, &self.id).await.map_err(|e| Stop::Failed(handler(&e)))?;
                r.attributes.insert("DNSName".into(), at.to_string());
            }
            "AWS::ECS::TaskDefinition" => r.physical = self.register(logical, &r.properties)?,
            "AWS::ECS::Service" => {
                let tags = self.stack(|s| tags_of(s, logical, &r.properties))?;
                scheduler::open(&self.shared, &self.id, &r, tags);
            }
            _ => {}
        }
        let service = (r.kind == "AWS::ECS::Service").then(|| r.physical.clone());
        // also when another operation has taken over meanwhile: it waits for this one, and then has to know
        self.shared.with(|w| w.stack_mut(&self.id).map(|s| s.shape.resources.insert(logical.to_owned(), r)));
        self.tell(logical, "CREATE_IN_PROGRESS", "Resource creation Initiated")?;
        if let Some(arn) = service {
            self.settled(&arn).await?;
        }
        self.tell(logical, "CREATE_COMPLETE", "")
    }

    fn group(&self, name: &str) -> Step<()> {
        let free = self.shared.with(|w| {
            let free = !w.groups.contains_key(name);
            if free {
                w.groups.insert(name.to_owned(), Group::default());
            }
            free
        });
        let words =
            format!("Resource of type 'AWS::Logs::LogGroup' with identifier '{name}' already exists.");
        if free { Ok(()) } else { Err(Stop::Failed(handler(&words))) }
    }

    /// The next revision.
    pub fn register(&self, logical: &str, properties: &Value) -> Step<String> {
        let tags = self.stack(|s| tags_of(s, logical, properties))?;
        Ok(self.shared.with(|w| definition::register(&self.shared, w, properties, tags)))
    }

    /// Waits until a service is as it should be, or will not be.
    pub async fn settled(&self, arn: &str) -> Step<()> {
        let end = self.until(|w, s| {
            if s.cancelled {
                return Some(Err("Resource update cancelled".to_owned()));
            }
            scheduler::outcome(w, arn).map(|good| {
                let words = "Error occurred during operation 'ECS Deployment Circuit Breaker was triggered'.";
                if good { Ok(()) } else { Err(handler(words)) }
            })
        });
        end.await?.map_err(Stop::Failed)
    }

    /// Takes a resource away, with all its events.
    pub async fn unmake(&self, logical: &str) -> Step<()> {
        let Some(r) = self.stack(|s| s.shape.resources.get(logical).cloned())? else { return Ok(()) };
        self.tell(logical, "DELETE_IN_PROGRESS", "")?;
        match r.kind.as_str() {
            "AWS::Logs::LogGroup" => drop(self.shared.with(|w| w.groups.remove(&r.physical))),
            "AWS::ElasticLoadBalancingV2::LoadBalancer" => front::stop(&self.shared, &self.id).await,
            "AWS::ECS::TaskDefinition" => self.shared.with(|w| definition::deregister(w, &r.physical)),
            "AWS::ECS::Service" => scheduler::close(&self.shared, &r.physical).await,
            // what is told of its tasks goes with it
            "AWS::ECS::Cluster" => self.shared.with(|w| scheduler::forget(w, &r.physical)),
            _ => {}
        }
        self.tell(logical, "DELETE_COMPLETE", "")?;
        self.stack(|s| drop(s.shape.resources.remove(logical)))
    }

    /// What the template gives out.
    pub fn outputs(&self) -> Step<()> {
        self.world(|shared, s| {
            let scope = Scope { shared, stack_name: &s.name, stack_id: &s.id, resources: &s.shape.resources };
            let all = s.shape.template["Outputs"].as_object().cloned().unwrap_or_default();
            let resolved = all.iter().map(|(k, o)| {
                let value = scope.resolve(&o["Value"])?;
                Ok((k.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
            });
            s.shape.outputs = resolved.collect::<Result<_, String>>()?;
            Ok(())
        })?
        .map_err(Stop::Failed)
    }
}

fn enter(s: &mut Stack, status: &str, reason: &str) {
    status.clone_into(&mut s.status);
    reason.clone_into(&mut s.reason);
    if status == "DELETE_COMPLETE" {
        s.deleted = Some(now());
    }
    let (name, id) = (s.name.clone(), s.id.clone());
    happened(s, (&name, &id, "AWS::CloudFormation::Stack"), status, reason);
}
