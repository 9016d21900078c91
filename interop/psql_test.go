package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// TestPsql uses a PostgreSQL server on a unix socket of one node from a TCP
// port of another, with PostgreSQL's own clients.
func TestPsql(t *testing.T) {
	pg := startPostgres(t)
	server, user := up(t, "server"), up(t, "user")
	server.do(t, "expose", "unix:"+pg.socket(), "--name", "pg", "--allow", user.id)
	local := user.connect(t, server, "pg")
	host, port, err := net.SplitHostPort(local)
	if err != nil {
		t.Fatal(err)
	}
	login := []string{"-h", host, "-p", port, "-U", "postgres"}
	psql := program(t, "psql", postgresPrograms+"psql")
	pgbench := program(t, "pgbench", postgresPrograms+"pgbench")
	query := func(sql string) result {
		return commandWith(t, nil, []string{"PGCONNECT_TIMEOUT=20"}, psql, append(login, "-X", "-A", "-t", "-c", sql, "postgres")...)
	}

	t.Run("psql", func(t *testing.T) {
		if r := query("select 6*7"); r.code != 0 || r.stdout != "42\n" {
			t.Fatal(r)
		}
		// Ten megabytes one way, counted by the other program.
		if r := query("copy (select repeat('x', 99) from generate_series(1, 100000)) to stdout"); len(r.stdout) != 10_000_000 {
			t.Fatalf("%d bytes, exit code %d, %s", len(r.stdout), r.code, r.stderr)
		}
	})

	t.Run("pgbench", func(t *testing.T) {
		must(t, nil, pgbench, append(login, "-i", "-q", "-s", "1", "postgres")...)
		for _, mode := range []string{"simple", "extended", "prepared"} {
			out := must(t, nil, pgbench, append(login, "-c", "10", "-j", "2", "-T", "2", "-n", "-M", mode, "postgres")...)
			failed := regexp.MustCompile(`number of failed transactions: (\d+)`).FindStringSubmatch(out)
			done := regexp.MustCompile(`number of transactions actually processed: (\d+)`).FindStringSubmatch(out)
			if failed == nil || failed[1] != "0" || done == nil || done[1] == "0" {
				t.Fatal(out)
			}
			tps := regexp.MustCompile(`tps = [\d.]+`).FindString(out)
			t.Logf("%s: %s transactions, none failed, %s", mode, done[1], tps)
		}
		// A new connection, through the tunnel, for each transaction.
		out := must(t, nil, pgbench, append(login, "-c", "10", "-j", "2", "-T", "2", "-n", "-C", "-S", "postgres")...)
		if !strings.Contains(out, "number of failed transactions: 0 ") {
			t.Fatal(out)
		}
		t.Log("a connection each: ", regexp.MustCompile(`tps = [\d.]+`).FindString(out))
	})

	t.Run("server restarts", func(t *testing.T) {
		c, err := pgx.ConnectConfig(t.Context(), pgxConfig(t, local))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		ended := make(chan error, 1)
		go func() {
			_, err := c.Exec(context.Background(), "select pg_sleep(600)")
			ended <- err
		}()
		eventually(t, "the query does not run", func() error {
			if r := query("select count(*) from pg_stat_activity where query = 'select pg_sleep(600)'"); r.stdout != "1\n" {
				return errors.New(r.String())
			}
			return nil
		})

		// The session hears the server's own farewell, at once.
		pg.stop()
		select {
		case err := <-ended:
			if pe := (*pgconn.PgError)(nil); !errors.As(err, &pe) || pe.Code != "57P01" {
				t.Errorf("a session of a server that shuts down ended with %v", err)
			}
		case <-time.After(patience):
			t.Fatal("a session of a server that shut down still waits")
		}

		// New connections are reset, never accepted into nothing, and both
		// nodes know why.
		if r := query("select 1"); r.code == 0 || !strings.Contains(r.stderr, "reset") && !strings.Contains(r.stderr, "closed the connection") {
			t.Errorf("psql while the server is down: %v", r)
		}
		if err := mustReset(local); err != nil {
			t.Error(err)
		}
		for _, n := range []*node{user, server} {
			if err := n.says(t, "pg", "target refused"); err != nil {
				t.Errorf("%s: %v", n.name, err)
			}
		}

		// Nobody has to do anything when it is back.
		pg.start(t)
		if r := query("select 6*7"); r.code != 0 || r.stdout != "42\n" {
			t.Error(r)
		}
	})
}

// mustReset connects, says something and expects a reset, not an end. The
// kernel tells of a reset once, to whichever call comes first.
func mustReset(hostPort string) error {
	c, err := net.Dial("tcp", hostPort)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		_, err = c.Write([]byte("hello\n"))
	}
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("%v from a service whose target is down, want a reset", err)
	}
	return nil
}
