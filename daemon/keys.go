package daemon

import (
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kith-p2p/kith"
	"github.com/kith-p2p/kith/address"
	"github.com/kith-p2p/kith/discovery"
	"github.com/kith-p2p/kith/dispatch/gossip"
	"github.com/multiformats/go-multiaddr"
)

// Key documents one key of config.toml.
type Key struct {
	// Name is the key as written in the file.
	Name string
	// Type is what it takes, in words.
	Type string
	// Default is its default as written in the file.
	Default string
	// Doc says what it does, in sentences.
	Doc string

	set func(*Config, any) error
}

var (
	networkName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,50}$`)
	moniker     = regexp.MustCompile(`^[!-~]( ?[!-~]){0,63}$`)
)

// keys is the one list that the parser, the template and the documentation are
// made from.
var keys = []Key{
	{
		Name: "listen", Type: "array of multiaddrs", Default: "[]",
		Doc: "Where the node listens for peers, such as \"/ip4/0.0.0.0/tcp/4001\" or \"/ip4/0.0.0.0/udp/4001/quic-v1\". " +
			"When empty the node listens on TCP and QUIC on all interfaces, on a free port that is picked at the first start and kept.",
		set: func(c *Config, v any) error {
			list, err := stringList(v)
			if err != nil {
				return err
			}
			for _, s := range list {
				if _, err := multiaddr.NewMultiaddr(s); err != nil {
					return fmt.Errorf("%q is not a multiaddr: %w", s, err)
				}
			}
			c.Listen = list
			return nil
		},
	},
	{
		Name: "local_only", Type: "boolean", Default: "false",
		Doc: "Listen on 127.0.0.1 only (when listen is empty) and do not look for peers on the local network.",
		set: func(c *Config, v any) error { return setBool(&c.LocalOnly, v) },
	},
	{
		Name: "mdns", Type: "boolean", Default: "true",
		Doc: "Look for peers on the local network, and let them find this node, by multicast DNS.",
		set: func(c *Config, v any) error { return setBool(&c.MDNS, v) },
	},
	{
		Name: "network", Type: "text", Default: `"kith"`,
		Doc: "The network that this node belongs to: only nodes of one network exchange messages, and find each other in the DHT. " +
			"At most 50 letters, digits, dots, dashes and underscores.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err == nil && !networkName.MatchString(s) {
				err = fmt.Errorf("%q is not a name of 1 to 50 letters, digits, dots, dashes and underscores", s)
			}
			c.Network = s
			return err
		},
	},
	{
		Name: "moniker", Type: "text", Default: `""`,
		Doc: "A name of this node for people, shown to peers: at most 64 printable ASCII characters. When empty, the beginning of its node ID.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err == nil && s != "" && !moniker.MatchString(s) {
				err = fmt.Errorf("%q is not a name of at most 64 printable ASCII characters", s)
			}
			c.Moniker = s
			return err
		},
	},
	{
		Name: "max_peers", Type: "number", Default: "64",
		Doc: "How many peers are connected for messages at a time, both directions together. 1 to 10000. Tunnels and calls come on top.",
		set: func(c *Config, v any) error { return setNumber(&c.MaxPeers, v, 1, 10_000) },
	},
	{
		Name: "max_outgoing", Type: "number", Default: "0",
		Doc: "How many of max_peers this node dials, at most. 0 means 8, or half of max_peers if that is fewer. As many as max_peers leave no place for peers that connect to this node.",
		set: func(c *Config, v any) error { return setNumber(&c.MaxOut, v, 0, 10_000) },
	},
	{
		Name: "persistent_peers", Type: "array of addresses", Default: "[]",
		Doc: "Peers that are kept connected, each an address that ends in its ID, such as \"/ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...\".",
		set: func(c *Config, v any) (err error) {
			if c.Peers, err = stringList(v); err != nil {
				return err
			}
			for _, s := range c.Peers {
				if _, err := address.Parse(s); err != nil {
					return fmt.Errorf("%q: %w", s, err)
				}
			}
			return nil
		},
	},
	{
		Name: "bootstrap", Type: "array of addresses", Default: "[]",
		Doc: "Nodes to begin with when this one knows nobody: addresses that end in the node's ID, or \"/dnsaddr/NAME\". " +
			"kith has no list of its own. `kith bootstrap` shows it and adds to it.",
		set: func(c *Config, v any) (err error) {
			if c.Bootstrap, err = stringList(v); err != nil {
				return err
			}
			_, err = discovery.ParseList(c.Bootstrap)
			return err
		},
	},
	{
		Name: "dns_seeds", Type: "array of host:port", Default: "[]",
		Doc: "Names whose IP addresses are nodes that listen on that port by TCP. They are asked once an hour.",
		set: func(c *Config, v any) (err error) {
			if c.DNSSeeds, err = stringList(v); err != nil {
				return err
			}
			for _, s := range c.DNSSeeds {
				if err := hostPort(s); err != nil {
					return err
				}
			}
			return nil
		},
	},
	{
		Name: "dht", Type: "lan, wan or both", Default: `""`,
		Doc: "The distributed hash tables of the network in which this node takes part, to find peers by their ID alone: that of the " +
			"local network, that of the internet, or both. When empty, none. It begins with the nodes of bootstrap.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err != nil {
				return err
			}
			switch c.DHT = kith.DHT(s); c.DHT {
			case kith.DHTOff, kith.DHTLAN, kith.DHTWAN, kith.DHTAll:
				return nil
			}
			return fmt.Errorf("%q is neither \"lan\", \"wan\" nor \"both\"", s)
		},
	},
	{
		Name: "pex", Type: "boolean", Default: "true",
		Doc: "Exchange addresses of peers with peers.",
		set: func(c *Config, v any) error { return setBool(&c.PEX, v) },
	},
	{
		Name: "topics", Type: "open, permissioned or small", Default: `"open"`,
		Doc: "For what kind of network `kith pub` and `kith sub` are set up: one that anybody may join, one of topic_peers only, " +
			"or one of some ten nodes, perhaps on one machine.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err != nil {
				return err
			}
			switch c.Topics = gossip.Preset(s); c.Topics {
			case gossip.Open, gossip.Permissioned, gossip.Small:
				return nil
			}
			return fmt.Errorf("%q is neither \"open\", \"permissioned\" nor \"small\"", s)
		},
	},
	{
		Name: "topic_peers", Type: "array of IDs", Default: "[]",
		Doc: "With topics = \"permissioned\", the peers that take part, by peer ID, node ID or address.",
		set: func(c *Config, v any) (err error) {
			c.TopicPeer, err = stringList(v)
			return err
		},
	},
	{
		Name: "dns_server", Type: "host:port", Default: `""`,
		Doc: "The DNS server that names in addresses are looked up at. When empty, the system's.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err != nil {
				return err
			}
			if s != "" {
				if err := hostPort(s); err != nil {
					return err
				}
			}
			c.DNSServer = s
			return nil
		},
	},
	{
		Name: "wait", Type: "duration", Default: `"10s"`,
		Doc: "How long a connection to a forwarded port waits while its peer is being redialled, unless `kith connect --wait` says otherwise. " +
			"At least 1ms, at most 1h.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err != nil {
				return err
			}
			d, err := time.ParseDuration(s)
			if err != nil {
				return fmt.Errorf("%q is not a duration, such as \"10s\" or \"2m\"", s)
			}
			if d < time.Millisecond || d > time.Hour {
				return fmt.Errorf("%s is not between 1ms and 1h", d)
			}
			c.Wait = d
			return nil
		},
	},
	{
		Name: "log_level", Type: "debug, info, warn or error", Default: `"info"`,
		Doc: "The least important messages that are logged.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err != nil {
				return err
			}
			c.LogLevel, err = ParseLogLevel(s)
			return err
		},
	},
	{
		Name: "log_format", Type: "text or json", Default: `"text"`,
		Doc: "How log messages are written to standard error: text has key=value pairs, json one object a line.",
		set: func(c *Config, v any) error {
			s, err := text(v)
			if err != nil {
				return err
			}
			if s != "text" && s != "json" {
				return fmt.Errorf("%q is neither \"text\" nor \"json\"", s)
			}
			c.LogFormat = s
			return nil
		},
	},
}

// Keys returns the documentation of every key of config.toml, in the order of
// the template.
func Keys() []Key { return slices.Clone(keys) }

// ParseLogLevel reads a log level: debug, info, warn or error.
func ParseLogLevel(s string) (slog.Level, error) {
	switch s {
	case "debug":
		return slog.LevelDebug, nil
	case "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("%q is not one of debug, info, warn, error", s)
}

// ConfigTemplate returns a config.toml that documents every key and sets none.
func ConfigTemplate() string {
	var b strings.Builder
	b.WriteString("# Configuration of a kith node, read when it starts.\n" +
		"# Every key is shown with its default; remove the \"#\" before a key to set it.\n" +
		"# Flags of `kith up` go before this file.\n")
	for _, k := range keys {
		b.WriteString("\n")
		for _, line := range wrap(k.Doc+" ("+k.Type+")", 76) {
			b.WriteString("# " + line + "\n")
		}
		fmt.Fprintf(&b, "#%s = %s\n", k.Name, k.Default)
	}
	return b.String()
}

// ConfigTable returns the documentation of every key as a Markdown table, with
// a newline after its last row.
func ConfigTable() string {
	var b strings.Builder
	b.WriteString("| Key | Type | Default | Meaning |\n| --- | --- | --- | --- |\n")
	for _, k := range keys {
		fmt.Fprintf(&b, "| `%s` | %s | `%s` | %s |\n", k.Name, k.Type, k.Default, strings.ReplaceAll(k.Doc, "|", `\|`))
	}
	return b.String()
}

func findKey(name string) *Key {
	i := slices.IndexFunc(keys, func(k Key) bool { return k.Name == name })
	if i < 0 {
		return nil
	}
	return &keys[i]
}

func text(v any) (string, error) {
	s, ok := v.(string)
	if !ok {
		return "", fmt.Errorf("want text in quotes, not %s", tomlType(v))
	}
	return s, nil
}

func setBool(to *bool, v any) error {
	b, ok := v.(bool)
	if !ok {
		return fmt.Errorf("want true or false, not %s", tomlType(v))
	}
	*to = b
	return nil
}

func setNumber(to *uint16, v any, least, most int64) error {
	n, ok := v.(int64)
	switch {
	case !ok:
		return fmt.Errorf("want a whole number, not %s", tomlType(v))
	case n < least || n > most:
		return fmt.Errorf("%d is not between %d and %d", n, least, most)
	}
	*to = uint16(n)
	return nil
}

func hostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return fmt.Errorf("%q is not host:port, such as \"127.0.0.1:53\"", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no port between 1 and 65535", s)
	}
	return nil
}

func stringList(v any) ([]string, error) {
	items, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("want an array of texts, not %s", tomlType(v))
	}
	list := make([]string, 0, len(items))
	for _, item := range items {
		s, ok := item.(string)
		if !ok {
			return nil, fmt.Errorf("want only texts in the array, not %s", tomlType(item))
		}
		list = append(list, s)
	}
	return list, nil
}

// tomlType names a decoded value's type as the file's author knows it.
func tomlType(v any) string {
	switch v.(type) {
	case string:
		return "text"
	case bool:
		return "a boolean"
	case int64, float64:
		return "a number"
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

// wrap breaks text at spaces into lines of at most width bytes, where words
// allow it.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
