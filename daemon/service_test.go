package daemon

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/kith-p2p/kith/internal/pb/controlv1"
	"github.com/kith-p2p/kith/internal/pb/controlv1/controlv1connect"
	"google.golang.org/protobuf/types/known/durationpb"
)

// recorder notes which procedures were asked for.
type recorder struct {
	http.RoundTripper
	mu    sync.Mutex // guards paths
	paths map[string]bool
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.mu.Lock()
	r.paths[req.URL.Path] = true
	r.mu.Unlock()
	return r.RoundTripper.RoundTrip(req)
}

// procedures lists every procedure of the schema.
func procedures() []string {
	service := controlv1.File_kith_control_v1_control_proto.Services().ByName("ControlService")
	var list []string
	for i := range service.Methods().Len() {
		list = append(list, "/"+string(service.FullName())+"/"+string(service.Methods().Get(i).Name()))
	}
	slices.Sort(list)
	return list
}

// TestEveryCallOverEveryProtocol runs one scenario of all calls, between two
// nodes, over each protocol that the server speaks.
func TestEveryCallOverEveryProtocol(t *testing.T) {
	for _, tc := range []struct {
		name    string
		http2   bool
		options []connect.ClientOption
	}{
		{"connect over http1", false, nil},
		{"connect over http2", true, nil},
		{"connect with json", false, []connect.ClientOption{connect.WithProtoJSON()}},
		{"grpc", true, []connect.ClientOption{connect.WithGRPC()}},
		{"grpc-web", false, []connect.ClientOption{connect.WithGRPCWeb()}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			noLeaks(t)
			server, user := start(t, newHome(t)), start(t, newHome(t))
			rec := &recorder{RoundTripper: unixTransport(t, user.home, tc.http2), paths: make(map[string]bool)}
			api := controlv1connect.NewControlServiceClient(&http.Client{Transport: rec}, "http://kith", tc.options...)
			everyCall(t, api, server, user)
			if got := slices.Sorted(maps.Keys(rec.paths)); !slices.Equal(got, procedures()) {
				t.Errorf("called %q, the schema has %q", got, procedures())
			}
		})
	}
}

func everyCall(t *testing.T, api controlv1connect.ControlServiceClient, server, user *running) {
	ctx := t.Context()
	target := echo(t)
	_, port, _ := net.SplitHostPort(target)

	st, err := api.Status(ctx, connect.NewRequest(&controlv1.StatusRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if st.Msg.GetPeerId() != user.status.GetPeerId() || st.Msg.GetHome() != user.home || st.Msg.GetVersion() != "test" ||
		len(st.Msg.GetNodeId()) != 40 || st.Msg.GetPid() == 0 || len(st.Msg.GetAddresses()) == 0 || st.Msg.GetStarted() == nil {
		t.Errorf("status %v", st.Msg)
	}

	// A service on the other node, used through a forward here.
	exposed, err := server.client.Expose(ctx, &controlv1.ExposeRequest{Target: target, Allow: []string{user.status.GetPeerId()}})
	if err != nil {
		t.Fatal(err)
	}
	if exposed.GetMount().GetName() != port {
		t.Errorf("the name defaults to %q, not to the port %s", exposed.GetMount().GetName(), port)
	}
	at := server.status.GetAddresses()[0]
	if want := "kith connect " + at + "/" + port; len(exposed.GetConnectCommands()) != 1 || exposed.GetConnectCommands()[0] != want {
		t.Errorf("connect commands %q, want %q", exposed.GetConnectCommands(), want)
	}
	dialled, err := api.DialPeer(ctx, connect.NewRequest(&controlv1.DialPeerRequest{Peer: at, Timeout: durationpb.New(5 * time.Second)}))
	if err != nil {
		t.Fatal(err)
	}
	if p := dialled.Msg.GetPeer(); !p.GetConnected() || p.GetPeerId() != server.status.GetPeerId() || p.GetAddress() == "" {
		t.Errorf("dialled %v", p)
	}
	forward, err := api.Connect(ctx, connect.NewRequest(&controlv1.ConnectRequest{Peer: server.status.GetPeerId(), Name: port}))
	if err != nil {
		t.Fatal(err)
	}
	if forward.Msg.GetWarning() != "" {
		t.Errorf("warning %q", forward.Msg.GetWarning())
	}
	c, err := net.Dial("tcp", forward.Msg.GetMount().GetLocal())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	roundTrip(t, c)

	streams, err := api.ListStreams(ctx, connect.NewRequest(&controlv1.ListStreamsRequest{}))
	if err != nil || len(streams.Msg.GetStreams()) != 1 {
		t.Fatalf("streams %v, error %v", streams, err)
	}
	if s := streams.Msg.GetStreams()[0]; s.GetName() != port || s.GetRemotePeer() != server.status.GetPeerId() || s.GetKind() != controlv1.Mount_KIND_CONNECT {
		t.Errorf("stream %v", s)
	}
	peers, err := api.ListPeers(ctx, connect.NewRequest(&controlv1.ListPeersRequest{}))
	if err != nil || len(peers.Msg.GetPeers()) != 1 || !peers.Msg.GetPeers()[0].GetConnected() {
		t.Errorf("peers %v, error %v", peers, err)
	}

	// Three pings, then no more.
	pings, err := api.Ping(ctx, connect.NewRequest(&controlv1.PingRequest{Peer: at, Count: 3, Interval: durationpb.New(10 * time.Millisecond)}))
	if err != nil {
		t.Fatal(err)
	}
	var seqs []int32
	for pings.Receive() {
		if pings.Msg().GetRtt().AsDuration() <= 0 || pings.Msg().GetAddress() == "" {
			t.Errorf("pong %v", pings.Msg())
		}
		seqs = append(seqs, pings.Msg().GetSeq())
	}
	if err := pings.Err(); err != nil || !slices.Equal(seqs, []int32{1, 2, 3}) {
		t.Errorf("pings %v, error %v", seqs, err)
	}

	everyMessageCall(t, api, server, at)

	// Cut the stream.
	closed, err := api.CloseStreams(ctx, connect.NewRequest(&controlv1.CloseStreamsRequest{Id: new(streams.Msg.GetStreams()[0].GetId())}))
	if err != nil || closed.Msg.GetClosed() != 1 {
		t.Errorf("closed %v, error %v", closed, err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the cut connection still reads")
	}

	// A mount that is held goes with the call.
	mine, err := api.Expose(ctx, connect.NewRequest(&controlv1.ExposeRequest{Target: target, Name: "held", AllowAny: true}))
	if err != nil {
		t.Fatal(err)
	}
	holding, letGo := context.WithCancel(ctx)
	hold, err := api.Hold(holding, connect.NewRequest(&controlv1.HoldRequest{MountId: mine.Msg.GetMount().GetId()}))
	if err != nil {
		t.Fatal(err)
	}
	if !hold.Receive() || !hold.Msg().GetHeld() {
		t.Fatalf("not held: %v", hold.Err())
	}
	if names := mountNames(t, api); !slices.Equal(names, []string{port, "held"}) {
		t.Errorf("mounts %q while held", names)
	}
	letGo()
	hold.Close()
	eventually(t, "the held mount goes", func() bool { return slices.Equal(mountNames(t, api), []string{port}) })

	gone, err := api.CloseMounts(ctx, connect.NewRequest(&controlv1.CloseMountsRequest{All: true}))
	if err != nil || len(gone.Msg.GetClosed()) != 1 || gone.Msg.GetClosed()[0].GetName() != port {
		t.Errorf("closed %v, error %v", gone, err)
	}
	if _, err := api.Shutdown(ctx, connect.NewRequest(&controlv1.ShutdownRequest{})); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	// Its answer means that the home is free.
	start(t, user.home)
}

// everyMessageCall runs the calls about messages, while the two nodes are peers.
func everyMessageCall(t *testing.T, api controlv1connect.ControlServiceClient, server *running, at string) {
	ctx := t.Context()
	id, node := server.status.GetPeerId(), server.status.GetNodeId()

	added, err := api.EditBootstrap(ctx, connect.NewRequest(&controlv1.EditBootstrapRequest{Add: []string{at}}))
	if err != nil || !slices.Equal(added.Msg.GetAdded(), []string{at}) {
		t.Errorf("added %v, error %v", added, err)
	}
	list, err := api.ListBootstrap(ctx, connect.NewRequest(&controlv1.ListBootstrapRequest{}))
	if err != nil || len(list.Msg.GetEntries()) != 1 || list.Msg.GetEntries()[0].GetLine() != at {
		t.Errorf("bootstrap list %v, error %v", list, err)
	}
	var router *controlv1.RouterResponse
	eventually(t, "the two are peers", func() bool {
		res, err := api.Router(ctx, connect.NewRequest(&controlv1.RouterRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		router = res.Msg
		return len(router.GetPeers()) == 1
	})
	if router.GetPeers()[0].GetNodeId() != node || router.GetNetwork() != "kith" || len(router.GetChannels()) == 0 || len(router.GetSources()) == 0 {
		t.Errorf("router %v", router)
	}
	found, err := api.Find(ctx, connect.NewRequest(&controlv1.FindRequest{Peer: node}))
	if err != nil || found.Msg.GetPeerId() != id || len(found.Msg.GetPlaces()) == 0 || !found.Msg.GetPlaces()[0].GetVerified() {
		t.Errorf("found %v, error %v", found, err)
	}
	book, err := api.ListBook(ctx, connect.NewRequest(&controlv1.ListBookRequest{Peer: id}))
	if err != nil || len(book.Msg.GetPeers()) != 1 || !book.Msg.GetPeers()[0].GetConnected() || len(book.Msg.GetPeers()[0].GetAddresses()) == 0 {
		t.Errorf("book %v, error %v", book, err)
	}
	ban := &controlv1.EditBookRequest{Edit: &controlv1.EditBookRequest_Ban{Ban: &controlv1.BanPeer{Peer: "192.0.2.0/24", Reason: "a test"}}}
	if res, err := api.EditBook(ctx, connect.NewRequest(ban)); err != nil || !res.Msg.GetChanged() {
		t.Errorf("ban: %v, error %v", res, err)
	}
	if book, err = api.ListBook(ctx, connect.NewRequest(&controlv1.ListBookRequest{})); err != nil || len(book.Msg.GetNetworks()) != 1 || book.Msg.GetNetworks()[0].GetReason() != "a test" {
		t.Errorf("book %v, error %v", book, err)
	}

	answer, err := api.Call(ctx, connect.NewRequest(&controlv1.CallRequest{Peer: id, Service: "ping", Data: []byte("hello")}))
	if err != nil || string(answer.Msg.GetData()) != "hello" {
		t.Errorf("answer %v, error %v", answer, err)
	}
	services, err := api.ListServices(ctx, connect.NewRequest(&controlv1.ListServicesRequest{Peer: id}))
	if err != nil || len(services.Msg.GetServices()) < 4 || !services.Msg.GetServices()[0].GetBuiltIn() {
		t.Errorf("services %v, error %v", services, err)
	}

	// What the other node publishes arrives here, and what this one does, too.
	listening, done := context.WithCancel(ctx)
	defer done()
	sub, err := api.Subscribe(listening, connect.NewRequest(&controlv1.SubscribeRequest{Topic: "news"}))
	if err != nil || !sub.Receive() || sub.Msg().GetMessage() != nil {
		t.Fatalf("not subscribed: %v, %v", sub, err)
	}
	if _, err := api.Publish(ctx, connect.NewRequest(&controlv1.PublishRequest{Topic: "news", Data: []byte("own")})); err != nil {
		t.Error(err)
	}
	eventually(t, "the publisher knows of the subscriber", func() bool {
		res, err := server.client.Publish(ctx, &controlv1.PublishRequest{Topic: "news", Data: []byte("theirs")})
		return err == nil && res.GetPeers() == 1
	})
	for got := map[string]bool{}; !got["own"] || !got["theirs"]; {
		if !sub.Receive() {
			t.Fatalf("got %v, then %v", got, sub.Err())
		}
		got[string(sub.Msg().GetMessage().GetData())] = true
	}
	done()
	sub.Close()
}

func roundTrip(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Fatalf("got %q, error %v", got, err)
	}
}

func mountNames(t *testing.T, api controlv1connect.ControlServiceClient) []string {
	t.Helper()
	res, err := api.ListMounts(t.Context(), connect.NewRequest(&controlv1.ListMountsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range res.Msg.GetMounts() {
		names = append(names, m.GetName())
	}
	slices.Sort(names)
	return names
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestCheckBindsNothing: with check, a peer that is away is an error and no
// mount is left; without, it is a warning and one stands.
func TestCheckBindsNothing(t *testing.T) {
	noLeaks(t)
	r := start(t, newHome(t))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	away := "/ip4/127.0.0.1/tcp/" + port + "/p2p/12D3KooWEc1pRgsK3VgEbNFAfm5qK5EP4ZPKs6oCMvirLzePy7eJ"
	for _, check := range []bool{true, false} {
		res, err := r.client.Connect(t.Context(), &controlv1.ConnectRequest{Peer: away, Name: "x", Check: check})
		mounts, lerr := r.client.ListMounts(t.Context())
		if lerr != nil {
			t.Fatal(lerr)
		}
		if check {
			var e *Error
			if !errors.As(err, &e) || e.Code != "unavailable" || len(mounts.GetMounts()) != 0 {
				t.Errorf("with check: %v, mounts %v", err, mounts)
			}
		} else if err != nil || res.GetWarning() == "" || len(mounts.GetMounts()) != 1 {
			t.Errorf("without check: %v %v, mounts %v", res, err, mounts)
		}
	}
}
