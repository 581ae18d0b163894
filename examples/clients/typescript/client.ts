/**
 * Creates an instance, watches it come up, calls it, takes it down: the API of sypctl from TypeScript.
 *
 * ./run [NAME] [--image IMAGE] [--port PORT] [--ca-file PEM]
 */
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { setTimeout } from "node:timers/promises";
import { parseArgs } from "node:util";
import {
  type CallOptions,
  type ClientUnaryCall,
  credentials,
  type ChannelCredentials,
  Metadata,
  type ServiceError,
  status as Code,
} from "@grpc/grpc-js";
import type { Operation } from "./gen/google/longrunning/operations.js";
import { ErrorInfo } from "./gen/google/rpc/error_details.js";
import { Status } from "./gen/google/rpc/status.js";
import {
  CreateInstanceRequest,
  GetInstanceRequest,
  GetTeardownReceiptRequest,
  InstancesClient,
  type OperationEvent,
  OperationEventsClient,
  type OperationMetadata_Step as Step,
  operationMetadata_StepStateToJSON as stepState,
  TransitionInstanceRequest,
} from "./gen/syp/v1/instances.js";
import { AccessClient, IssueLocalTokenRequest } from "./gen/syp/v1/services.js";
import {
  type Instance,
  Instance_State as State,
  type InstanceSpec,
  instance_StateToJSON as stateName,
  type TeardownReceipt,
} from "./gen/syp/v1/types.js";

/** A watch that breaks off is opened again, a second apart. */
const WATCH_TRIES = 10;

/** An operation that ended with an error. */
class Failed extends Error {}

/** The local engine's socket, unless SYPCTL_SERVER names another server. */
function server(): string {
  const { SYPCTL_SERVER, SYP_DATA_DIR, XDG_DATA_HOME } = process.env;
  return SYPCTL_SERVER || `unix:${SYP_DATA_DIR || `${XDG_DATA_HOME || `${homedir()}/.local/share`}/syp`}/engine.sock`;
}

/** Without TLS only over a Unix socket: a token never crosses a network in clear. */
function trust(address: string, caFile?: string): ChannelCredentials {
  if (address.startsWith("unix:")) return credentials.createInsecure();
  if (!address.startsWith("https://")) throw new Failed(`${address} is neither unix:/PATH nor https://HOST:PORT`);
  return credentials.createSsl(caFile ? readFileSync(caFile) : null);
}

type Unary<Request, Answer> = (
  request: Request,
  metadata: Metadata,
  options: CallOptions,
  callback: (error: ServiceError | null, answer: Answer) => void,
) => ClientUnaryCall;

/** Calls with a token. Over the local socket the engine knows us by our user id and gives us one. */
class Client {
  readonly instances: InstancesClient;
  private readonly operations: OperationEventsClient;
  private readonly access: AccessClient;
  private readonly local: boolean;
  private readonly metadata = new Metadata();
  private token = "";

  constructor(address: string, caFile?: string) {
    const [target, how] = [address.replace(/^https:\/\//, ""), trust(address, caFile)];
    this.instances = new InstancesClient(target, how);
    this.operations = new OperationEventsClient(target, how);
    this.access = new AccessClient(target, how);
    this.local = address.startsWith("unix:");
  }

  /** A promise of the answer. */
  ask<Request, Answer>(f: Unary<Request, Answer>, request: Request, seconds = 30): Promise<Answer> {
    return new Promise((resolve, reject) => {
      f(request, this.metadata, { deadline: Date.now() + seconds * 1000 }, (e, answer) => (e ? reject(e) : resolve(answer)));
    });
  }

  async login(): Promise<void> {
    this.token = process.env.SYPCTL_TOKEN || (await this.localToken(""));
    this.metadata.set("authorization", `Bearer ${this.token}`);
  }

  /** Without an audience: for the API itself. */
  private async localToken(audience: string): Promise<string> {
    const request = IssueLocalTokenRequest.fromPartial({ audience });
    return (await this.ask(this.access.issueLocalToken.bind(this.access), request)).token;
  }

  /** A token for calling an instance: another one than the API's, neither stands in for the other. */
  async appToken(instance: string): Promise<string> {
    return process.env.SYPCTL_APP_TOKEN || (this.local ? this.localToken(instance) : this.token);
  }

  /** Sent again with the same request id it would be the same operation, not a second one. */
  create(parent: string, instanceId: string, spec: Partial<InstanceSpec>): Promise<Operation> {
    const request = CreateInstanceRequest.fromPartial({ parent, instanceId, instance: { spec }, requestId: randomUUID() });
    return this.ask(this.instances.createInstance.bind(this.instances), request, 150);
  }

  destroy(name: string): Promise<Operation> {
    const request = TransitionInstanceRequest.fromPartial({ name, to: State.DESTROYED, requestId: randomUUID() });
    return this.ask(this.instances.transitionInstance.bind(this.instances), request);
  }

  get(name: string): Promise<Instance> {
    return this.ask(this.instances.getInstance.bind(this.instances), GetInstanceRequest.fromPartial({ name }));
  }

  receipt(name: string): Promise<TeardownReceipt> {
    return this.ask(this.instances.getTeardownReceipt.bind(this.instances), GetTeardownReceiptRequest.fromPartial({ name }));
  }

  /** Prints each step as it changes, to the end. A watch that breaks off goes on where it was. */
  async watch(operation: Operation): Promise<void> {
    let [resumeToken, tries] = ["", 0];
    for (;;) {
      try {
        const events = this.operations.watchOperation({ name: operation.name, resumeToken }, this.metadata);
        for await (const event of events as AsyncIterable<OperationEvent>) {
          [resumeToken, tries] = [event.resumeToken, 0];
          (event.snapshot?.steps ?? (event.step ? [event.step] : [])).forEach(show);
          if (event.done?.error) throw new Failed(explain(event.done.error));
          if (event.done) return;
        }
      } catch (e) {
        if ((e as ServiceError).code !== Code.UNAVAILABLE || tries >= WATCH_TRIES) throw e;
      }
      tries += 1;
      await setTimeout(1000);
    }
  }
}

function show(step: Step): void {
  const [state, why] = [stepState(step.state), step.waitingOn?.reason];
  console.log(`  step ${step.id.padEnd(24)} ${state.toLowerCase()}${why && why !== state ? ` (${why})` : ""}`);
}

/** With the stable reason, which `sypctl explain` knows. */
function explain(status: Status): string {
  const info = status.details.find((d) => d.typeUrl.endsWith("/google.rpc.ErrorInfo"));
  return `${status.message} (reason: ${info ? ErrorInfo.decode(info.value).reason : "none"})`;
}

function explainError(e: unknown): string {
  const details = (e as ServiceError).metadata?.get("grpc-status-details-bin")[0];
  if (details instanceof Buffer) return explain(Status.decode(details));
  return e instanceof Error ? e.message : String(e);
}

async function call(url: string, token?: string): Promise<number> {
  const headers: Record<string, string> = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch(url, { headers, signal: AbortSignal.timeout(30_000) });
  await answer.body?.cancel();
  return answer.status;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      image: { type: "string", default: "syp-example/hello:latest" },
      port: { type: "string", default: "8080" },
      "ca-file": { type: "string" },
    },
  });
  const name = positionals[0] ?? "from-typescript";
  const client = new Client(server(), values["ca-file"]);
  await client.login();
  const full = `projects/default/instances/${name}`;
  const created = await client.create("projects/default", name, { image: values.image, port: Number(values.port), target: "docker" });
  // with its uid a name means this incarnation and no later one
  const target = `${full}@${(await client.get(full)).uid}`;
  console.log(`creating ${target}`);
  try {
    await client.watch(created);
    const { state, endpoint } = await client.get(target);
    console.log(`${stateName(state).toLowerCase()} at ${endpoint}`);
    const token = await client.appToken(full);
    console.log(`without a token: ${await call(endpoint)}`);
    console.log(`with a token: ${await call(endpoint, token)}`);
  } finally {
    console.log(`destroying ${target}`);
    await client.watch(await client.destroy(target));
  }
  const r = await client.receipt(target);
  console.log(`receipt: ${r.createdCount} created, ${r.verifiedGoneCount} verified gone, ${r.residuals.length} left`);
}

main().catch((e: unknown) => {
  console.error(`error: ${explainError(e)}`);
  process.exitCode = 1;
});
