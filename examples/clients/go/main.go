// Creates an instance, watches it come up, calls it, takes it down: the API of sypctl from Go.
//
//	./run [-image IMAGE] [-port PORT] [-ca-file PEM] [NAME]
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloud.google.com/go/longrunning/autogen/longrunningpb"
	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	syp "sypclient/gen/syp/v1"
)

// a watch that breaks off is opened again, a second apart
const watchTries = 10

// server is the local engine's socket, unless SYPCTL_SERVER names another server.
func server() string {
	if given := os.Getenv("SYPCTL_SERVER"); given != "" {
		return given
	}
	dir := os.Getenv("SYP_DATA_DIR")
	if share := os.Getenv("XDG_DATA_HOME"); dir == "" && share != "" {
		dir = filepath.Join(share, "syp")
	}
	if dir == "" {
		dir = filepath.Join(os.Getenv("HOME"), ".local/share/syp")
	}
	return "unix:" + filepath.Join(dir, "engine.sock")
}

// connect goes without TLS only over a Unix socket: a token never crosses a network in clear.
func connect(address, caFile string) (*grpc.ClientConn, error) {
	if strings.HasPrefix(address, "unix:") {
		return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	target, https := strings.CutPrefix(address, "https://")
	if !https {
		return nil, fmt.Errorf("%s is neither unix:/PATH nor https://HOST:PORT", address)
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", caFile)
		}
	}
	return grpc.NewClient(target, grpc.WithTransportCredentials(credentials.NewTLS(settings)))
}

// client calls with a token. Over the local socket the engine knows us by our user id and gives us one.
type client struct {
	instances  syp.InstancesClient
	operations syp.OperationEventsClient
	access     syp.AccessClient
	local      bool
	token      string
}

func newClient(ctx context.Context, address, caFile string) (*client, error) {
	conn, err := connect(address, caFile)
	if err != nil {
		return nil, err
	}
	c := &client{
		instances:  syp.NewInstancesClient(conn),
		operations: syp.NewOperationEventsClient(conn),
		access:     syp.NewAccessClient(conn),
		local:      strings.HasPrefix(address, "unix:"),
		token:      os.Getenv("SYPCTL_TOKEN"),
	}
	if c.token == "" {
		c.token, err = c.localToken(ctx, "")
	}
	return c, err
}

func (c *client) signed(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
}

// localToken is for the API itself when there is no audience.
func (c *client) localToken(ctx context.Context, audience string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	answer, err := c.access.IssueLocalToken(ctx, &syp.IssueLocalTokenRequest{Audience: audience})
	return answer.GetToken(), err
}

// appToken is for calling an instance: another one than the API's, neither stands in for the other.
func (c *client) appToken(ctx context.Context, instance string) (string, error) {
	if given := os.Getenv("SYPCTL_APP_TOKEN"); given != "" {
		return given, nil
	}
	if !c.local {
		return c.token, nil
	}
	return c.localToken(ctx, instance)
}

// create may be sent again with the same request id: it is the same operation then, not a second one.
func (c *client) create(ctx context.Context, parent, name string, spec *syp.InstanceSpec) (*longrunningpb.Operation, error) {
	ctx, cancel := context.WithTimeout(c.signed(ctx), 150*time.Second)
	defer cancel()
	return c.instances.CreateInstance(ctx, &syp.CreateInstanceRequest{
		Parent: parent, InstanceId: name, Instance: &syp.Instance{Spec: spec}, RequestId: uuid.NewString(),
	})
}

func (c *client) destroy(ctx context.Context, name string) error {
	fmt.Println("destroying", name)
	limited, cancel := context.WithTimeout(c.signed(ctx), 30*time.Second)
	defer cancel()
	op, err := c.instances.TransitionInstance(limited, &syp.TransitionInstanceRequest{
		Name: name, To: syp.Instance_DESTROYED, RequestId: uuid.NewString(),
	})
	if err != nil {
		return err
	}
	return c.watch(ctx, op)
}

// watch prints each step as it changes, to the end. A watch that breaks off goes on where it was.
func (c *client) watch(ctx context.Context, op *longrunningpb.Operation) error {
	resume := ""
	for tries := 0; ; tries++ {
		done, err := c.watchFrom(c.signed(ctx), op.Name, &resume, &tries)
		switch {
		case done.GetError() != nil:
			return status.ErrorProto(done.GetError())
		case done != nil:
			return nil
		case errors.Is(err, io.EOF) || status.Code(err) == codes.Unavailable:
			if tries >= watchTries {
				return err
			}
			time.Sleep(time.Second)
		default:
			return err
		}
	}
}

func (c *client) watchFrom(ctx context.Context, name string, resume *string, tries *int) (*longrunningpb.Operation, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := c.operations.WatchOperation(ctx, &syp.WatchOperationRequest{Name: name, ResumeToken: *resume})
	if err != nil {
		return nil, err
	}
	for {
		event, err := events.Recv()
		if err != nil {
			return nil, err
		}
		*resume, *tries = event.GetResumeToken(), 0
		switch kind := event.GetEvent().(type) {
		case *syp.OperationEvent_Snapshot:
			for _, step := range kind.Snapshot.GetSteps() {
				show(step)
			}
		case *syp.OperationEvent_Step:
			show(kind.Step)
		case *syp.OperationEvent_Done:
			return kind.Done, nil
		}
	}
}

func show(step *syp.OperationMetadata_Step) {
	state, why := step.GetState().String(), step.GetWaitingOn().GetReason()
	if why == state {
		why = ""
	}
	if why != "" {
		why = " (" + why + ")"
	}
	fmt.Printf("  step %-24s %s%s\n", step.GetId(), strings.ToLower(state), why)
}

// explain adds the stable reason, which `sypctl explain` knows.
func explain(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		return err.Error()
	}
	reason := "none"
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	return fmt.Sprintf("%s (reason: %s)", s.Message(), reason)
}

func call(url, token string) error {
	how := "without a token"
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if token != "" {
		how = "with a token"
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := (&http.Client{Timeout: 30 * time.Second}).Do(request)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d\n", how, answer.StatusCode)
	return answer.Body.Close()
}

// use shows an instance while it serves.
func (c *client) use(ctx context.Context, op *longrunningpb.Operation, target, plain string) error {
	if err := c.watch(ctx, op); err != nil {
		return err
	}
	got, err := c.instances.GetInstance(c.signed(ctx), &syp.GetInstanceRequest{Name: target})
	if err != nil {
		return err
	}
	fmt.Println(strings.ToLower(got.GetState().String()), "at", got.GetEndpoint())
	token, err := c.appToken(ctx, plain)
	if err != nil {
		return err
	}
	if err := call(got.GetEndpoint(), ""); err != nil {
		return err
	}
	return call(got.GetEndpoint(), token)
}

func run(ctx context.Context) error {
	image := flag.String("image", "syp-example/hello:latest", "the `IMAGE` to serve")
	port := flag.Int("port", 8080, "the `PORT` that it listens on")
	caFile := flag.String("ca-file", "", "certificate authorities to trust, `PEM`")
	flag.Parse()
	name := "from-go"
	if flag.NArg() > 0 {
		name = flag.Arg(0)
	}
	c, err := newClient(ctx, server(), *caFile)
	if err != nil {
		return err
	}
	op, err := c.create(ctx, "projects/default", name, &syp.InstanceSpec{Image: *image, Port: int32(*port), Target: "docker"})
	if err != nil {
		return err
	}
	// with its uid a name means this incarnation and no later one
	plain := "projects/default/instances/" + name
	got, err := c.instances.GetInstance(c.signed(ctx), &syp.GetInstanceRequest{Name: plain})
	if err != nil {
		return err
	}
	target := plain + "@" + got.GetUid()
	fmt.Println("creating", target)
	// whatever happens to it, it does not stay
	err = c.use(ctx, op, target, plain)
	if end := c.destroy(ctx, target); err == nil {
		err = end
	}
	if err != nil {
		return err
	}
	receipt, err := c.instances.GetTeardownReceipt(c.signed(ctx), &syp.GetTeardownReceiptRequest{Name: target})
	if err != nil {
		return err
	}
	fmt.Printf("receipt: %d created, %d verified gone, %d left\n",
		receipt.GetCreatedCount(), receipt.GetVerifiedGoneCount(), len(receipt.GetResiduals()))
	return nil
}

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", explain(err))
		os.Exit(1)
	}
}
