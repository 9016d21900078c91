package rpc

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"reflect"
	"testing"
	"time"
)

type goldenFrame struct {
	Name    string `json:"name"`
	Hex     string `json:"hex"`
	Kind    kind   `json:"kind"`
	Flags   flags  `json:"flags"`
	Call    uint64 `json:"call"`
	Payload string `json:"payload"`
}

// golden are the frames of testdata/vectors.json as this package writes them.
// KITH_UPDATE_VECTORS=1 writes the file; it changes only with the protocol.
func golden() (list []goldenFrame) {
	add := func(name string, k kind, f flags, call uint64, payload []byte) {
		list = append(list, goldenFrame{name, hex.EncodeToString(appendFrame(nil, k, f, call, payload)), k, f, call, hex.EncodeToString(payload)})
	}
	add("invoke of /echo with 2 s and a header", kindInvoke, flagAccept|flagUnary, 1, appendInvoke(nil, "/echo", 2*time.Second, Headers{"a": "b"}))
	add("invoke of a stream, no timeout", kindInvoke, 0, 128, appendInvoke(nil, "/a/b", 0, nil))
	add("invoke with sorted headers", kindInvoke, flagUnary, 2, appendInvoke(nil, "/x", time.Microsecond, Headers{"b": "", "a": "ä", "aa": "2"}))
	add("headers", kindHeaders, flagAccept, 1, appendHeaders(nil, Headers{"codec": "json"}))
	add("message", kindMessage, flagEnd|flagAccept, 1, []byte("hi"))
	add("empty message", kindMessage, 0, math.MaxUint64, nil)
	add("half-close", kindHalfClose, 0, 1, nil)
	add("error", kindError, 0, 1, appendError(nil, &Error{Code: CodeNotFound, Message: "no"}))
	add("refusal with details", kindError, flagRefused, 9, appendError(nil, &Error{Code: CodeResourceExhausted, RetryAfter: 250 * time.Millisecond, Message: "busy", Details: []Detail{{"t", []byte{0, 255}}}}))
	add("cancel", kindCancel, 0, 300, []byte{byte(CodeCanceled)})
	add("ping", kindPing, 0, 0, []byte("kith"))
	add("answer to a ping", kindPing, flagAnswer, 0, []byte("kith"))
	add("goaway", kindGoaway, 0, 0, appendGoaway(nil, goaway{last: 7, code: CodeResourceExhausted, retryAfter: 250 * time.Millisecond, message: "busy"}))
	add("window", kindWindow, 0, 5, []byte{0x80, 0x80, 0x08})
	return list
}

func TestGoldenVectors(t *testing.T) {
	const file = "testdata/vectors.json"
	want, err := json.MarshalIndent(golden(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if os.Getenv("KITH_UPDATE_VECTORS") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("this package writes other frames than the golden ones")
	}
	spec, err := os.ReadFile("spec.md")
	if err != nil {
		t.Fatal(err)
	}
	inSpec := map[string]bool{"invoke of /echo with 2 s and a header": true, "message": true, "error": true, "goaway": true, "ping": true, "answer to a ping": true, "cancel": true}
	bare := bytes.ReplaceAll(spec, []byte(" "), nil)
	for _, g := range golden() {
		if inSpec[g.Name] && !bytes.Contains(bare, []byte(g.Hex)) {
			t.Errorf("%s: not in spec.md as %s", g.Name, g.Hex)
		}
		wire, _ := hex.DecodeString(g.Hex)
		h, n, err := parseHeader(wire, 1<<20)
		payload, _ := hex.DecodeString(g.Payload)
		if err != nil || h != (header{g.Kind, g.Flags, g.Call, len(payload)}) || !bytes.Equal(wire[n:], payload) {
			t.Errorf("%s: %+v, %v", g.Name, h, err)
		}
		for cut := range n {
			if _, m, err := parseHeader(wire[:cut], 1<<20); m != 0 || err != nil {
				t.Errorf("%s cut to %d bytes: %d, %v", g.Name, cut, m, err)
			}
		}
	}
}

func TestPayloadsRoundTrip(t *testing.T) {
	e := &Error{Code: 77, Message: "ä", Details: []Detail{{"x", []byte("1")}, {"", nil}}, RetryAfter: time.Hour}
	got, err := parseError(appendError(nil, e))
	if err != nil || got.Code != 77 || got.Message != "ä" || len(got.Details) != 2 || got.RetryAfter != time.Hour {
		t.Errorf("%+v, %v", got, err)
	}
	long := &Error{Code: CodeAborted, Message: string(bytes.Repeat([]byte("ü"), messageMax)), Details: make([]Detail, 100)}
	got, err = parseError(appendError(nil, long))
	if err != nil || len(got.Message) != messageMax || len(got.Details) != detailsMax {
		t.Errorf("%d, %d, %v", len(got.Message), len(got.Details), err)
	}
	h := Headers{"a": "1", "b": ""}
	inv, err := parseInvoke(appendInvoke(nil, "/m", 90*time.Second+time.Nanosecond, h))
	if err != nil || string(inv.method) != "/m" || inv.timeout != 90*time.Second+time.Microsecond || !reflect.DeepEqual(inv.headers, h) {
		t.Errorf("%+v, %v", inv, err)
	}
	g := goaway{last: math.MaxUint64, code: 14, message: "x"}
	if back, err := parseGoaway(appendGoaway(nil, g)); err != nil || back != g {
		t.Errorf("%+v, %v", back, err)
	}
}
