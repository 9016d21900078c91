package daemon

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// TestKeysMatchConfig holds the documented keys, the struct and the template
// together.
func TestKeysMatchConfig(t *testing.T) {
	var fields, names []string
	typ := reflect.TypeFor[Config]()
	for i := range typ.NumField() {
		fields = append(fields, typ.Field(i).Tag.Get("toml"))
	}
	for _, k := range Keys() {
		names = append(names, k.Name)
		if k.Type == "" || k.Default == "" || !strings.HasSuffix(k.Doc, ".") {
			t.Errorf("%s is not documented whole: %+v", k.Name, k)
		}
		if !strings.Contains(ConfigTemplate(), "\n#"+k.Name+" = "+k.Default+"\n") {
			t.Errorf("%s is not in the template", k.Name)
		}
		if !strings.Contains(ConfigTable(), "\n| `"+k.Name+"` |") {
			t.Errorf("%s is not in the table", k.Name)
		}
	}
	if !slices.Equal(fields, names) {
		t.Errorf("the struct has %q, the documentation %q", fields, names)
	}
}

// TestDefaultsAreWhatIsDocumented parses the template with every key set.
func TestDefaultsAreWhatIsDocumented(t *testing.T) {
	var text strings.Builder
	for line := range strings.Lines(ConfigTemplate()) {
		if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") {
			line = rest
		}
		text.WriteString(line)
	}
	c, faults := parseConfig([]byte(text.String()))
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for _, list := range []*[]string{&c.Listen, &c.Peers, &c.Bootstrap, &c.DNSSeeds, &c.TopicPeer} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	if !reflect.DeepEqual(c, DefaultConfig()) {
		t.Errorf("the template says %+v, the defaults are %+v", c, DefaultConfig())
	}
}

const aPeer = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWEc1pRgsK3VgEbNFAfm5qK5EP4ZPKs6oCMvirLzePy7eJ"

// TestEveryKeyHasAnEffect sets each key alone.
func TestEveryKeyHasAnEffect(t *testing.T) {
	values := map[string]string{
		"listen": `["/ip4/127.0.0.1/tcp/1"]`, "local_only": "true", "mdns": "false", "dns_server": `"127.0.0.1:53"`,
		"network": `"one"`, "moniker": `"me"`, "max_peers": "5", "max_outgoing": "3", "dht": `"lan"`, "topics": `"small"`, "topic_peers": `["` + aPeer + `"]`, "pex": "false",
		"persistent_peers": `["` + aPeer + `"]`, "bootstrap": `["` + aPeer + `"]`, "dns_seeds": `["seed.example.org:4001"]`,
		"wait": `"1s"`, "log_level": `"error"`, "log_format": `"json"`,
	}
	for i, k := range Keys() {
		c, faults := parseConfig([]byte(k.Name + " = " + values[k.Name]))
		if len(faults) > 0 {
			t.Errorf("%s: %q", k.Name, faults)
		}
		def := reflect.ValueOf(DefaultConfig())
		for j := range def.NumField() {
			same := reflect.DeepEqual(reflect.ValueOf(c).Field(j).Interface(), def.Field(j).Interface())
			if same == (i == j) {
				t.Errorf("%s leaves field %s the same: %v", k.Name, def.Type().Field(j).Name, same)
			}
		}
	}
}

// TestConfigDocumentIsCurrent compares the table with the one in the manual.
func TestConfigDocumentIsCurrent(t *testing.T) {
	path := filepath.Join("..", "docs", "config.md")
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		t.Logf("there is no %s yet", path)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), ConfigTable()) {
		t.Errorf("%s does not have this table:\n%s", path, ConfigTable())
	}
}

func TestWrap(t *testing.T) {
	long := strings.Repeat("y", 20)
	for text, want := range map[string][]string{
		"":                       {""},
		"a b c":                  {"a b c"},
		"aaaa bbbb cccc":         {"aaaa bbbb", "cccc"},
		"a " + long + " b":       {"a", long, "b"},
		"  spaces   and\nlines ": {"spaces and", "lines"},
	} {
		if got := wrap(text, 10); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
