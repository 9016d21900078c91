package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Half of the memory that a quiet node holds is its own program. Each of these
// makes it larger without being used: gRPC, by its tracing (x/net/trace renders
// pages with html/template, and a template that is executed calls methods by
// name, for which the linker keeps every exported method); what libp2p's
// constructor brings along.
func TestRegressionLinksWhatItDoesNotUse(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	deps := strings.Fields(string(out))
	for _, p := range []string{
		"google.golang.org/grpc", "golang.org/x/net/trace", "html/template",
		"github.com/libp2p/go-libp2p", "github.com/libp2p/go-libp2p/config", "go.uber.org/fx", "github.com/pion/webrtc/v4", "github.com/quic-go/webtransport-go",
	} {
		if slices.Contains(deps, p) {
			t.Errorf("kith links %s", p)
		}
	}
	if !slices.Contains(deps, "github.com/libp2p/go-libp2p/p2p/net/swarm") {
		t.Error("the list of packages is not one")
	}
}
