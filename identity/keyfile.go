package identity

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// maxKeyFile bounds what is read of a key file. A whole one has 232 bytes; the rest is room for saying what is wrong.
const maxKeyFile = 16 << 10

// ErrKeyPermissions says that others than the owner may read or write the key file.
var ErrKeyPermissions = errors.New("identity: key file is open to others")

// ErrKeyNotRegular says that the key path is a directory, a pipe, a device or a socket.
var ErrKeyNotRegular = errors.New("identity: key file is not a regular file")

// Load reads a key file. A symbolic link is followed. It returns an error that names the path and matches
//
//   - fs.ErrNotExist: there is no file
//   - ErrKeyPermissions: the mode lets group or others at it (not checked on Windows); the text has the command to run
//   - ErrKeyNotRegular: not a file
//   - ErrKeyMalformed: empty, too large, truncated, damaged, of another kind, or with something after it
func Load(path string) (PrivKey, error) {
	// Asked before opening: opening a pipe would block.
	info, err := os.Stat(path)
	if err != nil {
		return PrivKey{}, fmt.Errorf("identity: load key: %w", err)
	}
	if err := checkKeyFile(path, info); err != nil {
		return PrivKey{}, err
	}
	f, err := os.Open(path)
	if err != nil {
		return PrivKey{}, fmt.Errorf("identity: load key: %w", err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil { // of what was opened, should the path have changed
		return PrivKey{}, fmt.Errorf("identity: load key: %w", err)
	}
	if err := checkKeyFile(path, info); err != nil {
		return PrivKey{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return PrivKey{}, fmt.Errorf("identity: load key: %w", err)
	}
	key, err := ParsePEM(data)
	if err != nil {
		return PrivKey{}, fmt.Errorf("%w: file %s: restore it from a copy; the key cannot be recomputed", err, path)
	}
	return key, nil
}

func checkKeyFile(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is a %s", ErrKeyNotRegular, path, info.Mode().Type())
	}
	if perm := info.Mode().Perm(); runtime.GOOS != "windows" && perm&0o077 != 0 {
		return fmt.Errorf("%w: %s has mode %04o, want 0600; run: chmod 600 %s", ErrKeyPermissions, path, perm, path)
	}
	return nil
}

// LoadOrCreate reads the key file at path, or makes a new key and saves it there when there is none; created tells
// which. When several processes do so at once exactly one creates, and all return the same key. The folder must exist.
// It blocks on the disk (two syncs when creating). Errors are those of Load and Save.
func LoadOrCreate(path string) (key PrivKey, created bool, err error) {
	key, err = Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	if key, err = Generate(); err != nil {
		return PrivKey{}, false, err
	}
	err = Save(path, key)
	created = err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return PrivKey{}, false, err
	}
	// Read back either way: the other process's key, or ours as the file system really keeps it (one that cannot
	// hold mode 0600 says so now, not at the next start).
	if key, err = Load(path); err != nil {
		return PrivKey{}, false, err
	}
	return key, created, nil
}

// Save writes the key to a new file at path with mode 0600. The file appears under its name only when complete and
// synced, and is durable when Save returns. An existing file, of whatever content, is never touched: the error then
// matches fs.ErrExist. On file systems without hard links the file is created in place instead, and a crash during
// that moment can leave a truncated file, which Load refuses.
func Save(path string, key PrivKey) error { return save(path, key, os.Link) }

func save(path string, key PrivKey, link func(oldname, newname string) error) error {
	data, err := key.MarshalPEM()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-*") // O_EXCL, 0600
	if err != nil {
		return fmt.Errorf("identity: create key: %w", err)
	}
	defer os.Remove(f.Name())
	if err := writeSynced(f, data); err != nil {
		return fmt.Errorf("identity: create key: %w", err)
	}
	err = link(f.Name(), path)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		if f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
			err = writeSynced(f, data)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("identity: create key: %w", err)
	}
	// Synced also when another process was first: its sync of the folder may still be under way, and our caller will
	// rely on the key as much as its.
	if serr := syncDir(dir); serr != nil {
		return fmt.Errorf("identity: create key: %w", serr)
	}
	if err != nil {
		return fmt.Errorf("identity: create key: will not overwrite: %w", err)
	}
	return nil
}

// writeSynced writes all of data to f, syncs and closes it.
func writeSynced(f *os.File, data []byte) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncDir makes the names in a folder durable. Windows has no such call and needs none.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
