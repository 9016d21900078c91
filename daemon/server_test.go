package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"connectrpc.com/grpcreflect"
	"github.com/kith-p2p/kith/internal/pb/controlv1/controlv1connect"
)

// unixTransport reaches the daemon in home over the given protocol version.
func unixTransport(t *testing.T, home string, http2 bool) *http.Transport {
	t.Helper()
	path, err := socketPath(home)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		Protocols: new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// TestPlainJSON posts JSON with nothing but net/http, as curl does.
func TestPlainJSON(t *testing.T) {
	noLeaks(t)
	r := start(t, newHome(t))
	hc := &http.Client{Transport: unixTransport(t, r.home, false)}
	target := echo(t)
	for _, tc := range []struct {
		call, body string
		status     int
		field      string // of the answer, not empty
	}{
		{"Status", `{}`, 200, "peerId"},
		{"Expose", `{"target":"` + target + `","name":"web","allowAny":true}`, 200, "mount"},
		{"Expose", `{"target":"` + target + `","name":"web","allowAny":true}`, 409, "message"},
		{"Expose", `{"name":"web"}`, 400, "message"},
		{"Expose", `{"target":"nonsense:here:now","name":"bad"}`, 400, "message"},
		{"Connect", `{"peer":"` + r.status.GetPeerId() + `"}`, 400, "message"},
		{"Connect", `{"name":"web"}`, 400, "message"},
		{"ListMounts", `{}`, 200, "mounts"},
		{"ListStreams", `{}`, 200, ""},
		{"CloseStreams", `{"id":7}`, 404, "message"},
		{"CloseStreams", `{}`, 400, "message"},
		{"CloseStreams", `{"id":7,"all":true}`, 400, "message"},
		{"CloseStreams", `{"all":true}`, 200, ""},
		{"ListPeers", `{}`, 200, ""},
		{"DialPeer", `{"peer":"nobody"}`, 400, "message"},
		{"DialPeer", `{}`, 400, "message"},
		{"DialPeer", `{"peer":"x","timeout":"-1s"}`, 400, "message"},
		{"CloseMounts", `{}`, 400, "message"},
		{"CloseMounts", `{"name":"web"}`, 200, "closed"},
		{"Status", `{"nonsense"`, 400, "message"},
		{"Expose", `{"target":"3000","name":"x","allowAny":true,"limits":{"maxConections":1}}`, 400, "message"}, // a typing error is no limit
		{"Nonsense", `{}`, 404, ""},
		{"Shutdown", `{}`, 200, ""},
	} {
		res, err := hc.Post("http://kith/kith.control.v1.ControlService/"+tc.call, "application/json", strings.NewReader(tc.body))
		if err != nil {
			t.Fatalf("%s %s: %v", tc.call, tc.body, err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != tc.status {
			t.Errorf("%s %s: status %d, want %d: %s %v", tc.call, tc.body, res.StatusCode, tc.status, body, err)
			continue
		}
		if tc.field == "" {
			continue
		}
		var fields map[string]any
		if err := json.Unmarshal(body, &fields); err != nil || fields[tc.field] == nil {
			t.Errorf("%s %s: no %q in %s", tc.call, tc.body, tc.field, body)
		}
	}
}

func TestServerRefuses(t *testing.T) {
	noLeaks(t)
	r := start(t, newHome(t))
	hc := &http.Client{Transport: unixTransport(t, r.home, false)}
	url := "http://kith" + controlv1connect.ControlServiceStatusProcedure
	for _, tc := range []struct {
		name   string
		change func(*http.Request)
		status int
	}{
		{"an origin", func(r *http.Request) { r.Header.Set("Origin", "https://example.com") }, http.StatusForbidden},
		{"an empty origin", func(r *http.Request) { r.Header["Origin"] = []string{""} }, http.StatusForbidden},
		{"a null origin", func(r *http.Request) { r.Header.Set("Origin", "null") }, http.StatusForbidden},
		{"a large body", func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(make([]byte, maxRequest+10))), -1
		}, http.StatusTooManyRequests},
		{"a large header", func(r *http.Request) { r.Header.Set("X", strings.Repeat("x", 2*maxHeader)) }, http.StatusRequestHeaderFieldsTooLarge},
		{"nothing wrong", func(*http.Request) {}, http.StatusOK},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		tc.change(req)
		res, err := hc.Do(req)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != tc.status {
			t.Errorf("%s: status %d, want %d", tc.name, res.StatusCode, tc.status)
		}
	}
}

// TestReflection asks the server for its schema as grpcurl does.
func TestReflection(t *testing.T) {
	noLeaks(t)
	r := start(t, newHome(t))
	hc := &http.Client{Transport: unixTransport(t, r.home, true)}
	stream := grpcreflect.NewClient(hc, "http://kith", connect.WithGRPC()).NewStream(t.Context())
	defer stream.Close()
	names, err := stream.ListServices()
	if err != nil || !slices.Contains(names, controlv1connect.ControlServiceName) {
		t.Errorf("services %q, error %v", names, err)
	}
	files, err := stream.FileContainingSymbol(controlv1connect.ControlServiceName)
	if err != nil || len(files) == 0 {
		t.Errorf("%d schema files, error %v", len(files), err)
	}
}
