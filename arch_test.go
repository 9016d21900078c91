package kith_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The house rules of ARCHITECTURE.md, held against the code. Each rule has a
// canary in TestHouseRulesCanFail that breaks it.

const module = "github.com/kith-p2p/kith"

// mayImport is the import table: which of our packages each package may use.
// Packages that do not exist yet are not listed; add a row with the package.
var mayImport = map[string][]string{
	"internal/wire":                          {},
	"internal/backoff":                       {},
	"internal/race":                          {},
	"internal/unixsock":                      {},
	"internal/pb/controlv1":                  {},
	"internal/pb/tunnelv1":                   {},
	"identity":                               {},
	"address":                                {"identity"},
	"stream":                                 {},
	"internal/state":                         {},
	"access":                                 {"identity", "internal/state"},
	"internal/host":                          {"identity"},
	"tunnel":                                 {"stream", "access"},
	"discovery":                              {"identity", "address", "addrbook", "connmgr"},
	".":                                      {"identity", "address", "stream", "access", "internal/host", "internal/state", "tunnel", "discovery", "addrbook", "p2p", "p2p/libp2p", "dispatch", "dispatch/gossip", "rpc"},
	"daemon":                                 {".", "identity", "address", "addrbook", "stream", "access", "tunnel", "p2p", "discovery", "dispatch", "dispatch/gossip", "rpc", "internal/pb/controlv1/controlv1connect"},
	"comet":                                  {"p2p", "p2p/mconn", "addrbook", "address", "identity"},
	"comet/comettest":                        {"p2p", "p2p/mconn", "identity"},
	"cmd/kith":                               {"daemon", ".", "address", "tunnel", "comet"},
	"examples/blocks":                        {"comet"},
	"examples/chat":                          {".", "p2p"},
	"examples/greeter":                       {".", "rpc/peergrpc"},
	"examples/kv":                            {".", "rpc"},
	"examples/mesh":                          {".", "dispatch", "p2p"},
	"internal/pb/controlv1/controlv1connect": {},
	"internal/pb/mconnv1":                    {},
	"internal/pb/cometv1":                    {},
	"internal/pb/dispatchv1":                 {},
	"internal/grpcid":                        {},
	"connmgr":                                {},
	"addrbook":                               {"identity", "address", "internal/state"},
	"transport":                              {"address"},
	"peers":                                  {"address", "transport"},
	"p2p":                                    {"identity", "address", "addrbook", "connmgr"},
	"p2p/memory":                             {"p2p"},
	"p2p/mconn":                              {"p2p", "identity"},
	"p2p/libp2p":                             {"p2p", "identity", "address"},
	"rpc":                                    {"stream", "access"},
	"rpc/peergrpc":                           {"rpc", "stream"},
	"dispatch":                               {"p2p", "identity"},
	"dispatch/gossip":                        {"dispatch", "p2p", "identity"},
	"p2p/p2ptest":                            {"p2p", "p2p/memory", "identity", "address", "addrbook", "connmgr"},
}

// openToAll may be imported by every package.
var openToAll = []string{"internal/wire", "internal/backoff", "internal/race", "internal/unixsock", "internal/pb/controlv1", "internal/pb/tunnelv1", "internal/pb/mconnv1", "internal/pb/cometv1", "internal/pb/dispatchv1", "internal/grpcid"}

// testsMayImport is the second, wider table, for test files.
var testsMayImport = map[string][]string{
	"stream":          {"internal/host"},
	"tunnel":          {"internal/host"},
	".":               {"internal/host", "p2p/mconn"},
	"daemon":          {"internal/host"},
	"peers":           {"stream", "internal/host"},
	"transport":       {"stream", "internal/host"},
	"p2p":             {"p2p/mconn", "p2p/memory", "p2p/p2ptest"},
	"p2p/libp2p":      {"p2p/p2ptest", "p2p/memory", "p2p/mconn", "internal/host", "addrbook", "connmgr"},
	"rpc":             {"internal/host"},
	"rpc/peergrpc":    {"internal/host"},
	"discovery":       {"internal/host"},
	"comet":           {"comet/comettest"},
	"comet/comettest": {"comet"},
	"cmd/kith":        {"comet/comettest"},
	"examples/blocks": {"comet/comettest"},
	"dispatch":        {"p2p/memory", "p2p/p2ptest", "addrbook", "identity", "address"},
	"dispatch/gossip": {"internal/host", "p2p/memory", "addrbook", "address"},
	"p2p/memory":      {"identity", "p2p/p2ptest"},
	"p2p/mconn":       {"p2p/p2ptest", "addrbook", "connmgr", "address"},
}

// restricted says who may import a library, by prefix. allow lists what of it
// is open to all: the small value types.
var restricted = []struct {
	prefix, why string
	allow, only []string
}{
	{"github.com/libp2p/", "libp2p beyond its value types", []string{
		"github.com/libp2p/go-libp2p/core/peer", "github.com/libp2p/go-libp2p/core/protocol", "github.com/libp2p/go-libp2p/core/crypto",
		"github.com/libp2p/go-libp2p/core/crypto/pb",
	}, []string{"stream", "tunnel", "rpc", "rpc/peergrpc", "dispatch/gossip", "p2p/libp2p", "discovery", "internal/host", "."}},
	{"connectrpc.com/", "Connect", nil, []string{"daemon", "internal/pb/controlv1/controlv1connect"}},
	{"google.golang.org/grpc", "gRPC", nil, []string{"daemon", "peers", "rpc/peergrpc", "internal/grpcid", "examples/greeter"}},
	{"github.com/prometheus/", "Prometheus", nil, []string{"daemon"}},
	{"go.etcd.io/bbolt", "bbolt", nil, []string{"internal/state"}},
	{"github.com/spf13/", "cobra", nil, []string{"cmd/kith"}},
}

// accepters may call Accept in a loop; everything else goes through them. In
// cmd/kith it is the local service that `kith try` sends through a tunnel.
var accepters = []string{"connmgr", "stream", "tunnel", "cmd/kith"}

const (
	maxLines     = 600  // of a source file
	maxTestLines = 1200 // of a test file
	maxExample   = 150  // of an example
)

type pkg struct {
	ImportPath, Dir, Doc               string
	GoFiles, TestGoFiles, XTestGoFiles []string
	Imports, TestImports, XTestImports []string
}

func (p pkg) name() string {
	if p.ImportPath == module {
		return "."
	}
	return strings.TrimPrefix(p.ImportPath, module+"/")
}

func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,TestGoFiles,XTestGoFiles,Imports,TestImports,XTestImports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var ps []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, p)
	}
}

// checkImports returns what is wrong with one import.
func checkImports(name, imported string, test bool) string {
	if rest, ours := strings.CutPrefix(imported, module); ours {
		to := strings.TrimPrefix(rest, "/")
		if to == "" {
			to = "."
		}
		allowed, known := mayImport[name]
		if !known {
			return fmt.Sprintf("package %s is not in the import table of arch_test.go", name)
		}
		if to == name || slices.Contains(openToAll, to) || slices.Contains(allowed, to) || test && slices.Contains(testsMayImport[name], to) {
			return ""
		}
		return fmt.Sprintf("%s may not import %s", name, to)
	}
	if test {
		return ""
	}
	for _, r := range restricted {
		if strings.HasPrefix(imported, r.prefix) && !slices.Contains(r.allow, imported) && !slices.Contains(r.only, name) {
			return fmt.Sprintf("%s may not import %s (%s)", name, imported, r.why)
		}
	}
	return ""
}

func TestImportTable(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range packages(t) {
		name := p.name()
		seen[name] = true
		if _, ok := mayImport[name]; !ok {
			t.Errorf("package %s is not in the import table", name)
		}
		for _, i := range p.Imports {
			if fault := checkImports(name, i, false); fault != "" {
				t.Error(fault)
			}
		}
		for _, i := range slices.Concat(p.TestImports, p.XTestImports) {
			if i == p.ImportPath {
				continue
			}
			if fault := checkImports(name, i, true); fault != "" {
				t.Errorf("in tests: %s", fault)
			}
		}
	}
	for name := range maps.Keys(mayImport) {
		if !seen[name] {
			t.Errorf("the import table lists %s, which does not exist", name)
		}
	}
}

func checkDoc(p pkg) string {
	if len(p.GoFiles) == 0 || strings.HasPrefix(p.name(), "internal/pb/") {
		return ""
	}
	want := "Package " + p.ImportPath[strings.LastIndex(p.ImportPath, "/")+1:] + " "
	if strings.HasPrefix(p.name(), "cmd/") || strings.HasPrefix(p.name(), "examples/") {
		want = "Command "
	}
	if !strings.HasPrefix(p.Doc, want) {
		return fmt.Sprintf("%s: the package comment must start with %q, not %.40q", p.name(), want, p.Doc)
	}
	return ""
}

func TestPackageComments(t *testing.T) {
	for _, p := range packages(t) {
		if fault := checkDoc(p); fault != "" {
			t.Error(fault)
		}
	}
}

func checkSize(name string, lines int) string {
	most := maxLines
	switch {
	case strings.HasSuffix(name, "_test.go"):
		most = maxTestLines
	case strings.HasPrefix(name, "examples/"):
		most = maxExample
	}
	if lines > most {
		return fmt.Sprintf("%s has %d lines, at most %d: split it by noun", name, lines, most)
	}
	return ""
}

// goFiles are ours: not generated, not of another module.
func goFiles(t *testing.T) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != "." {
			if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil || strings.HasPrefix(d.Name(), ".") || path == filepath.Join("internal", "pb") {
				return fs.SkipDir
			}
		}
		if strings.HasSuffix(path, ".go") {
			files = append(files, filepath.ToSlash(path))
		}
		return nil
	})
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	return files
}

func TestFileSizes(t *testing.T) {
	for _, f := range goFiles(t) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if fault := checkSize(f, strings.Count(string(b), "\n")); fault != "" {
			t.Error(fault)
		}
	}
}

// checkSource returns what is wrong with one file: an accept loop outside the
// packages that may have one, a test that can skip, a sleep where virtual time
// or an event is meant.
func checkSource(name, src string) []string {
	var faults []string
	f, err := parser.ParseFile(token.NewFileSet(), name, src, 0)
	if err != nil {
		return []string{err.Error()}
	}
	test := strings.HasSuffix(name, "_test.go")
	dir := filepath.ToSlash(filepath.Dir(name))
	var loops int
	var visit func(ast.Node) bool
	visit = func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ForStmt:
			loops++
			ast.Inspect(n.Body, visit)
			loops--
			return false
		case *ast.CallExpr:
			sel, ok := n.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			switch {
			case !test && loops > 0 && sel.Sel.Name == "Accept" && len(n.Args) == 0 && !slices.Contains(accepters, dir):
				faults = append(faults, name+": an accept loop; serve through a package that has one")
			case test && (sel.Sel.Name == "Skip" || sel.Sel.Name == "Skipf" || sel.Sel.Name == "SkipNow"):
				faults = append(faults, name+": a test that can skip")
			}
		}
		return true
	}
	ast.Inspect(f, visit)
	return faults
}

func TestSources(t *testing.T) {
	for _, f := range goFiles(t) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, fault := range checkSource(f, string(b)) {
			t.Error(fault)
		}
	}
}

// Each guard above, shown to fail.
func TestHouseRulesCanFail(t *testing.T) {
	for what, fault := range map[string]string{
		"an upward import":            checkImports("identity", module+"/address", false),
		"an import of the root":       checkImports("tunnel", module, false),
		"an unknown package":          checkImports("util", module+"/identity", false),
		"an upward import in a test":  checkImports("identity", module+"/tunnel", true),
		"a test-only import in code":  checkImports("tunnel", module+"/internal/host", false),
		"libp2p in the address layer": checkImports("address", "github.com/libp2p/go-libp2p/core/host", false),
		"Connect outside the daemon":  checkImports("cmd/kith", "connectrpc.com/connect", false),
		"bbolt outside the state":     checkImports("access", "go.etcd.io/bbolt", false),
		"a package without a comment": checkDoc(pkg{ImportPath: module + "/tunnel", GoFiles: []string{"x.go"}}),
		"a command without a comment": checkDoc(pkg{ImportPath: module + "/cmd/kith", GoFiles: []string{"x.go"}}),
		"a long file":                 checkSize("x.go", maxLines+1),
		"a long test":                 checkSize("x_test.go", maxTestLines+1),
		"a long example":              checkSize("examples/x/main.go", maxExample+1),
		"an accept loop":              fmt.Sprint(checkSource("daemon/x.go", "package x\nfunc f() { for { l.Accept() } }")),
		"a skipped test":              fmt.Sprint(checkSource("x_test.go", "package x\nfunc f() { t.Skip() }")),
	} {
		if fault == "" || fault == "[]" {
			t.Errorf("the guard does not see %s", what)
		}
	}
	for what, fault := range map[string]string{
		"a value type of libp2p": checkImports("address", "github.com/libp2p/go-libp2p/core/peer", false),
		"a test-only import":     checkImports("tunnel", module+"/internal/host", true),
		"the framing":            checkImports("tunnel", module+"/internal/wire", false),
		"an accept loop of ours": strings.Join(checkSource("tunnel/x.go", "package x\nfunc f() { for { l.Accept() } }"), ""),
	} {
		if fault != "" {
			t.Errorf("the guard forbids %s: %s", what, fault)
		}
	}
}
