package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kith-p2p/kith"
)

func TestParseConfig(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		change     func(*Config) // from the defaults
		faults     []string      // a piece of each
	}{
		{"empty", "", func(*Config) {}, nil},
		{"the template", ConfigTemplate(), func(*Config) {}, nil},
		{"all", `
listen = ["/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/udp/4001/quic-v1"]
local_only = true
mdns = false
dns_server = "[::1]:53"
wait = "1m30s"
log_level = "debug"
log_format = "json"
`, func(c *Config) {
			c.Listen = []string{"/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/udp/4001/quic-v1"}
			c.LocalOnly, c.MDNS, c.DNSServer, c.Wait = true, false, "[::1]:53", 90*time.Second
			c.LogLevel, c.LogFormat = slog.LevelDebug, "json"
		}, nil},
		{"unknown key", "mdns = true\nlisten_on = []\n", nil, []string{`line 2: unknown key "listen_on", the closest known key is "listen"`}},
		{"regression: a section", "mdns = true\n[node]\nwait = \"1s\"\n", nil, []string{"line 2: there are no sections; write the keys of [node] without it"}},
		{"an inline table", "logging = {level = 1}\n", nil, []string{"line 1: there are no sections; write the keys of [logging]"}},
		{"everything wrong at once", `
listen = ["nonsense"]
mdns = "yes"
dns_server = "9.9.9.9"
wait = "soon"
log_level = "loud"
log_format = "xml"
local_only = 1
wiat = "1s"
`, nil, []string{
			`line 2: listen: "nonsense" is not a multiaddr`, "line 3: mdns: want true or false, not text", `line 4: dns_server: "9.9.9.9" is not host:port`,
			`line 5: wait: "soon" is not a duration`, `line 6: log_level: "loud" is not one of`, `line 7: log_format: "xml" is neither`,
			"line 8: local_only: want true or false, not a number", `line 9: unknown key "wiat", the closest known key is "wait"`,
		}},
		{"types", "listen = \"x\"\nwait = 5\nlog_level = []\ndns_server = {}\n", nil, []string{
			"line 1: listen: want an array of texts, not text", "line 2: wait: want text in quotes, not a number",
			"line 3: log_level: want text in quotes, not an array", "line 4: dns_server: want text in quotes, not a table",
		}},
		{"mixed array", "listen = [1979-05-27]", nil, []string{"want only texts in the array, not a date or time"}},
		{"wait too short", `wait = "0s"`, nil, []string{"0s is not between 1ms and 1h"}},
		{"wait too long", `wait = "2h"`, nil, []string{"2h0m0s is not between"}},
		{"port of dns", `dns_server = "a:0"`, nil, []string{"no port between 1 and 65535"}},
		{"twice", "mdns = true\nmdns = true\n", nil, []string{"line 2, column 1: key mdns is already defined"}},
		{"no toml", "mdns = = true", nil, []string{"line 1"}},
		{"too large", strings.Repeat("#", maxConfig+1), nil, []string{"larger than"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, faults := parseConfig([]byte(tc.text))
			if len(faults) != len(tc.faults) {
				t.Fatalf("faults %q, want %q", faults, tc.faults)
			}
			for i, piece := range tc.faults {
				if !strings.Contains(faults[i], piece) {
					t.Errorf("fault %q, want %q in it", faults[i], piece)
				}
			}
			if tc.change == nil {
				return
			}
			want := DefaultConfig()
			tc.change(&want)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestLoadConfig(t *testing.T) {
	home := t.TempDir()
	if c, err := LoadConfig(home); err != nil || !reflect.DeepEqual(c, DefaultConfig()) {
		t.Errorf("no file: %+v, %v", c, err)
	}
	path := filepath.Join(home, ConfigFile)
	if err := os.WriteFile(path, []byte("a=1\nb=2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LoadConfig(home)
	var ce *ConfigError
	if !errors.As(err, &ce) || ce.Path != path || len(ce.Faults) != 2 || !errors.Is(err, kith.ErrUsage) || strings.Contains(err.Error(), "\n") {
		t.Errorf("two unknown keys: %v", err)
	}
}

// Each says what to do next; once a home of another user was said to need its
// file made readable.
func TestRegressionUnreadableConfigSaysHowToGoOn(t *testing.T) {
	for err, piece := range map[error]string{
		&fs.PathError{Op: "open", Path: "/h/config.toml", Err: syscall.EACCES}:  "run this as that user or choose another with --home",
		&fs.PathError{Op: "open", Path: "/h/config.toml", Err: syscall.ENOTDIR}: "a home is a directory",
		&fs.PathError{Op: "read", Path: "/h/config.toml", Err: syscall.EISDIR}:  "make it a readable file or remove it",
	} {
		if got := unreadable("/h", err); !errors.Is(got, err) || !strings.Contains(got.Error(), piece) {
			t.Errorf("%v", got)
		}
	}
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ConfigFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadConfig(home); err == nil || !strings.Contains(err.Error(), "make it a readable file") {
		t.Errorf("a directory: %v", err)
	}
}

func TestRunLeavesNothingBehindABadConfig(t *testing.T) {
	home := newHome(t)
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(home, ConfigFile)
	if err := os.WriteFile(path, []byte("nonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Options{Home: home}); !errors.Is(err, kith.ErrUsage) {
		t.Errorf("Run: %v", err)
	}
	entries, err := os.ReadDir(home)
	if err != nil || len(entries) != 1 {
		t.Errorf("the home has %v, error %v", entries, err)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "nonsense = 1\n" {
		t.Errorf("the file now is %q, error %v", data, err)
	}
}

func TestTemplateIsWrittenOnce(t *testing.T) {
	noLeaks(t)
	home := newHome(t)
	r := start(t, home)
	path := filepath.Join(home, ConfigFile)
	data, err := os.ReadFile(path)
	if err != nil || string(data) != ConfigTemplate() {
		t.Fatalf("first start wrote %q, error %v", data, err)
	}
	r.end(t)
	mine := []byte("# mine\nlog_level = \"debug\"\n")
	if err := os.WriteFile(path, mine, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, home)
	if data, err := os.ReadFile(path); err != nil || string(data) != string(mine) {
		t.Errorf("second start left %q, error %v", data, err)
	}
}

func TestClosestKey(t *testing.T) {
	for name, want := range map[string]string{
		"listn": "listen", "Listen": "listen", "MDNS": "mdns", "dns": "mdns", "loglevel": "log_level", "log": "log_level", "logformat": "log_format",
		"local": "local_only", strings.Repeat("x", 1<<16): "",
	} {
		got := closestKey(name)
		if want == "" {
			if findKey(got) == nil {
				t.Errorf("%.20q: %q is no key", name, got)
			}
			continue
		}
		if got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(ConfigTemplate()))
	f.Add([]byte("listen = [\"/ip4/1.2.3.4/tcp/1\"]\n[a.b]\nc = 1"))
	f.Add([]byte("wait = \"1s\"\nwait = 2"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, faults := parseConfig(data)
		for _, fault := range faults {
			if fault == "" {
				t.Error("an empty fault")
			}
		}
		if len(faults) == 0 && (c.Wait <= 0 || c.LogFormat == "") {
			t.Errorf("accepted %+v", c)
		}
	})
}

func ExampleConfigError() {
	err := &ConfigError{Path: "/home/ann/.kith/config.toml", Faults: []string{`line 3: unknown key "listn", the closest known key is "listen"`}}
	fmt.Println(err)
	// Output: /home/ann/.kith/config.toml cannot be used: line 3: unknown key "listn", the closest known key is "listen"; correct the file and start again
}
