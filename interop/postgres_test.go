package interop

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const postgresPrograms = "/usr/lib/postgresql/*/bin/"

// postgres is a PostgreSQL server with a cluster of its own, which listens on a
// unix socket only.
type postgres struct {
	*process
	dir   string
	login *syscall.Credential
}

// startPostgres makes a cluster and runs its server until the test ends.
func startPostgres(t *testing.T) *postgres {
	t.Helper()
	p := &postgres{dir: shortDir(t, "kith-pg-"), login: postgresUser(t)}
	if err := os.Chown(p.dir, int(p.login.Uid), int(p.login.Gid)); err != nil {
		t.Fatal(err)
	}
	initdb := exec.Command(program(t, "initdb", postgresPrograms+"initdb"), "--pgdata", filepath.Join(p.dir, "data"),
		"--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	initdb.Dir = p.dir
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: p.login}
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	p.start(t)
	return p
}

// postgresUser is whom the server runs as: it refuses to be root.
func postgresUser(t *testing.T) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatalf("%v: run interop/install.sh", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// start runs the server, for the first time or after a stop.
func (p *postgres) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(program(t, "postgres", postgresPrograms+"postgres"), "-D", filepath.Join(p.dir, "data"), "-k", p.dir,
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=60", "-c", "shared_buffers=32MB")
	cmd.Dir = p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.login}
	p.process = start(t, nil, "postgres", syscall.SIGINT, cmd) // SIGINT ends sessions and shuts down in order
	ready := program(t, "pg_isready", postgresPrograms+"pg_isready")
	p.wait(t, func() error {
		if r := command(t, nil, ready, "-h", p.dir); r.code != 0 {
			return errors.New(r.String())
		}
		return nil
	})
}

// socket is where the server listens.
func (p *postgres) socket() string { return filepath.Join(p.dir, ".s.PGSQL.5432") }

// pgxConfig says how pgx logs in at host:port.
func pgxConfig(t *testing.T, hostPort string) *pgx.ConnConfig {
	t.Helper()
	return poolConfig(t, hostPort).ConnConfig
}

func poolConfig(t *testing.T, hostPort string) *pgxpool.Config {
	t.Helper()
	c, err := pgxpool.ParseConfig("postgres://postgres@" + hostPort + "/postgres?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	return c
}
