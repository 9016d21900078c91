package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	_ "google.golang.org/protobuf/types/known/durationpb" // the schema imports them
	_ "google.golang.org/protobuf/types/known/timestamppb"
)

const controlService = "kith.control.v1.ControlService"

// TestCurlOnControlSocket drives a node with curl and JSON, all the way to its
// end.
func TestCurlOnControlSocket(t *testing.T) {
	n := up(t, "node")
	if fi, err := os.Stat(n.control()); err != nil || fi.Mode().Type() != fs.ModeSocket || fi.Mode().Perm() != 0o600 {
		t.Fatalf("control socket: %v, %v", fi, err)
	}
	call := func(method, body string, args ...string) response {
		return curl(t, nil, "http://kith/"+controlService+"/"+method,
			append([]string{"--unix-socket", n.control(), "-H", "content-type: application/json", "-d", body}, args...)...)
	}
	ok := func(method, body string, answer any) {
		t.Helper()
		r := call(method, body)
		if err := json.Unmarshal(r.body, answer); r.status != "200" || err != nil {
			t.Fatalf("%s: %v, %v", method, r, err)
		}
	}
	refused := func(httpStatus, code, method, body string, pieces ...string) {
		t.Helper()
		r := call(method, body)
		var e struct{ Code, Message string }
		if err := json.Unmarshal(r.body, &e); r.status != httpStatus || err != nil || e.Code != code {
			t.Errorf("%s %s: %v, want %s and %q", method, body, r, httpStatus, code)
		}
		for _, piece := range pieces {
			if !strings.Contains(e.Message, piece) {
				t.Errorf("%s %s: the message %q lacks %q", method, body, e.Message, piece)
			}
		}
	}

	var st struct{ PeerID, Home string }
	if ok("Status", "{}", &st); st.PeerID != n.id || st.Home != n.home {
		t.Errorf("status %+v", st)
	}
	var exposed struct {
		Mount           mount
		ConnectCommands []string
	}
	ok("Expose", `{"target":"3000","name":"web","allowAny":true}`, &exposed)
	if exposed.Mount.Name != "web" || len(exposed.ConnectCommands) == 0 || !strings.Contains(exposed.ConnectCommands[0], n.id+"/web") {
		t.Errorf("exposed %+v", exposed)
	}
	if m := n.mounts(t); len(m) != 1 || m[0].Name != "web" { // the CLI sees the same
		t.Errorf("mounts %+v", m)
	}
	refused("409", "already_exists", "Expose", `{"target":"3000","name":"web"}`, "web", "another name")
	refused("400", "invalid_argument", "Expose", `{"target":"70000"}`, "70000")
	refused("400", "invalid_argument", "Expose", `{`)
	refused("400", "invalid_argument", "CloseMounts", `{}`)
	refused("404", "not_found", "CloseStreams", `{"id":4711}`, "4711")
	if r := call("Status", "{}", "-H", "Origin: http://example.com"); r.status != "403" {
		t.Errorf("a web page may call: %v", r)
	}
	var closed struct{ Closed []mount }
	if ok("CloseMounts", `{"name":"web"}`, &closed); len(closed.Closed) != 1 {
		t.Errorf("closed %+v", closed)
	}

	ok("Shutdown", "{}", &struct{}{})
	<-n.exited
	if _, err := os.Lstat(n.control()); err == nil {
		t.Error("the control socket is left behind")
	}
}

// reflected is a gRPC client that knows nothing of kith but what the node's
// reflection service tells it, as grpcurl would.
type reflected struct {
	conn *grpc.ClientConn
	desc protoreflect.ServiceDescriptor
}

func reflect(t *testing.T, socket string) *reflected {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ask, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer ask.CloseSend()
	query := func(q *grpc_reflection_v1.ServerReflectionRequest) *grpc_reflection_v1.ServerReflectionResponse {
		t.Helper()
		if err := ask.Send(q); err != nil {
			t.Fatal(err)
		}
		answer, err := ask.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	listed := query(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
	if s := listed.GetListServicesResponse().GetService(); len(s) != 1 || s[0].GetName() != controlService {
		t.Fatalf("services: %v", s)
	}
	found := query(&grpc_reflection_v1.ServerReflectionRequest{
		MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: controlService},
	})
	set := &descriptorpb.FileDescriptorSet{}
	for _, raw := range found.GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(raw, file); err != nil {
			t.Fatal(err)
		}
		set.File = append(set.File, file)
	}
	files, err := protodesc.FileOptions{AllowUnresolvable: false}.NewFiles(set)
	if err != nil {
		t.Fatalf("the schema told by the node is not whole: %v", err)
	}
	d, err := files.FindDescriptorByName(controlService)
	if err != nil {
		t.Fatal(err)
	}
	return &reflected{conn, d.(protoreflect.ServiceDescriptor)}
}

// request returns the path of a method, a request from JSON and an empty
// response.
func (r *reflected) request(t *testing.T, method, body string) (path string, in, out *dynamicpb.Message) {
	t.Helper()
	m := r.desc.Methods().ByName(protoreflect.Name(method))
	if m == nil {
		t.Fatalf("the schema has no method %s", method)
	}
	in, out = dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if err := protojson.Unmarshal([]byte(body), in); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("/%s/%s", controlService, method), in, out
}

// call is a unary call with JSON in and out.
func (r *reflected) call(t *testing.T, method, body string, answer any) error {
	t.Helper()
	path, in, out := r.request(t, method, body)
	if err := r.conn.Invoke(t.Context(), path, in, out); err != nil {
		return err
	}
	decode(t, out, answer)
	return nil
}

func decode(t *testing.T, m *dynamicpb.Message, answer any) {
	t.Helper()
	data, err := protojson.Marshal(m)
	if err == nil {
		err = json.Unmarshal(data, answer)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestGRPCOnControlSocket drives a node with google.golang.org/grpc.
func TestGRPCOnControlSocket(t *testing.T) {
	n, other := up(t, "node"), up(t, "other")
	r := reflect(t, n.control())

	var st struct{ PeerID string }
	if err := r.call(t, "Status", "{}", &st); err != nil || st.PeerID != n.id {
		t.Errorf("status %+v, %v", st, err)
	}
	var dialled struct{ Peer peer }
	if err := r.call(t, "DialPeer", fmt.Sprintf(`{"peer":%q,"timeout":"20s"}`, other.addr), &dialled); err != nil || dialled.Peer.PeerID != other.id || !dialled.Peer.Connected {
		t.Errorf("dialled %+v, %v", dialled, err)
	}
	err := r.call(t, "Expose", `{"target":"70000"}`, nil)
	if s := status.Convert(err); s.Code() != codes.InvalidArgument || !strings.Contains(s.Message(), "70000") {
		t.Errorf("a bad target: %v", err)
	}
	if err := r.call(t, "CloseStreams", `{"id":4711}`, nil); status.Code(err) != codes.NotFound {
		t.Errorf("an unknown stream: %v", err)
	}
	if err := r.conn.Invoke(t.Context(), "/"+controlService+"/Nope", dynamicpb.NewMessage(r.desc.Methods().Get(0).Input()), dynamicpb.NewMessage(r.desc.Methods().Get(0).Output())); status.Code(err) != codes.Unimplemented {
		t.Errorf("a method that is not there: %v", err)
	}

	// A streaming call that ends by itself.
	var pings int
	if err := r.stream(t, t.Context(), "Ping", fmt.Sprintf(`{"peer":%q,"count":3,"interval":"0.01s"}`, other.id), func(m *dynamicpb.Message) {
		var p struct{ Seq, Error, RTT any }
		decode(t, m, &p)
		if pings++; p.Error != nil || p.RTT == nil {
			t.Errorf("ping %d: %+v", pings, p)
		}
	}); err != nil || pings != 3 {
		t.Errorf("%d pings, %v", pings, err)
	}

	// One that lives until the client ends it: the mount goes with it.
	var exposed struct{ Mount struct{ ID string } }
	if err := r.call(t, "Expose", `{"target":"3000","name":"held","allowAny":true}`, &exposed); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err = r.stream(t, ctx, "Hold", fmt.Sprintf(`{"mountId":%q}`, exposed.Mount.ID), func(m *dynamicpb.Message) {
		if got := n.mounts(t); len(got) != 1 {
			t.Errorf("while it is held: %+v", got)
		}
		cancel()
	})
	if status.Code(err) != codes.Canceled {
		t.Errorf("hold ended with %v", err)
	}
	eventually(t, "the mount outlives the call that held it", func() error {
		if got := n.mounts(t); len(got) != 0 {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
}

// stream makes a server-streaming call and hands each message to got. It
// returns nil when the server ended the stream well.
func (r *reflected) stream(t *testing.T, ctx context.Context, method, body string, got func(*dynamicpb.Message)) error {
	t.Helper()
	path, in, out := r.request(t, method, body)
	s, err := r.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path)
	if err != nil {
		return err
	}
	if err := s.SendMsg(in); err != nil {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	for {
		m := dynamicpb.NewMessage(out.Descriptor())
		switch err := s.RecvMsg(m); {
		case err == nil:
			got(m)
		case err == io.EOF:
			return nil
		default:
			return err
		}
	}
}
