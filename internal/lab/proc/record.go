package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Record identifies a process for as long as the machine runs.
type Record struct {
	// Name is unique in a lab: the program and, if it is not on the control
	// plane, where it runs, such as kube-proxy@node-1.
	Name string `json:"name"`
	// Host is where it runs.
	Host string `json:"host"`
	PID  int    `json:"pid"`
	// StartTime is when it started, in clock ticks since the machine booted
	// (proc_pid_stat(5), field 22).
	StartTime uint64 `json:"startTime"`
}

// Identify returns the record of the running process pid, without names.
func Identify(pid int) (Record, error) {
	status, err := readStat("/proc", pid)
	if err != nil {
		return Record{}, err
	}
	return Record{PID: pid, StartTime: status.startTime}, nil
}

// Alive reports whether the process still runs. One that has ended and was not
// yet waited for by its parent does not, nor does another that got its id.
func (r Record) Alive() bool { return r.aliveIn("/proc") }

func (r Record) aliveIn(root string) bool {
	status, err := readStat(root, r.PID)
	return err == nil && status.startTime == r.StartTime && status.state != 'Z' && status.state != 'X'
}

// Stopped says whether the process is stopped, with all its threads: a signal
// stops them one after the other.
func (r Record) Stopped() bool {
	if !r.Alive() {
		return false
	}
	tasks := filepath.Join("/proc", strconv.Itoa(r.PID), "task")
	entries, err := os.ReadDir(tasks)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(entries, func(entry os.DirEntry) bool {
		thread, err := strconv.Atoi(entry.Name())
		if err != nil {
			return false
		}
		status, err := readStat(tasks, thread)
		return err == nil && status.state != 'T'
	})
}

// ErrNotRunning is returned when a process to be signalled has ended.
var ErrNotRunning = errors.New("not running")

// Signal sends a signal to the process, and never to another that got its id.
func (r Record) Signal(signal syscall.Signal) error {
	// The handle (a pidfd) is taken before the check, so that what is checked is
	// what is signalled.
	handle, err := os.FindProcess(r.PID)
	if err != nil {
		return fmt.Errorf("signal %s: %w", r.Name, err)
	}
	defer handle.Release() //nolint:errcheck // frees a descriptor, cannot matter
	if !r.Alive() {
		return fmt.Errorf("signal %s: %w", r.Name, ErrNotRunning)
	}
	err = handle.Signal(signal)
	if errors.Is(err, os.ErrProcessDone) {
		err = ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("signal %s: %w", r.Name, err)
	}
	return nil
}

// stat is the part of /proc/PID/stat that tells processes apart.
type stat struct {
	state     byte
	startTime uint64
}

func readStat(root string, pid int) (stat, error) {
	content, err := os.ReadFile(filepath.Join(root, strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, fmt.Errorf("process %d: %w", pid, err)
	}
	parsed, err := parseStat(string(content))
	if err != nil {
		return stat{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return parsed, nil
}

// parseStat reads fields 3 and 22. Field 2 is the program's name in parentheses
// and may itself hold spaces and parentheses, so counting starts after the last.
func parseStat(content string) (stat, error) {
	end := strings.LastIndexByte(content, ')')
	fields := strings.Fields(content[end+1:])
	const state, startTime = 0, 19 // numbered from field 3
	if end < 0 || len(fields) <= startTime {
		return stat{}, fmt.Errorf("unexpected stat %q", content)
	}
	ticks, err := strconv.ParseUint(fields[startTime], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("unexpected start time: %w", err)
	}
	return stat{state: fields[state][0], startTime: ticks}, nil
}

// Save writes the record into folder.
func (r Record) Save(folder string) error {
	content, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("record of %s: %w", r.Name, err)
	}
	path := filepath.Join(folder, r.Name+".json")
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		return fmt.Errorf("record of %s: %w", r.Name, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("record of %s: %w", r.Name, err)
	}
	return nil
}

// Load reads the record called name from folder.
func Load(folder, name string) (Record, error) {
	content, err := os.ReadFile(filepath.Join(folder, name+".json"))
	if err != nil {
		return Record{}, fmt.Errorf("record of %s: %w", name, err)
	}
	var record Record
	if err := json.Unmarshal(content, &record); err != nil {
		return Record{}, fmt.Errorf("record of %s: %w", name, err)
	}
	return record, nil
}

// LoadAll reads all records in folder, by name: those that can be read also when
// others cannot, which is an error. A folder that does not exist holds none.
func LoadAll(folder string) ([]Record, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("process records: %w", err)
	}
	var records []Record
	var errs []error
	for _, entry := range entries {
		name, isRecord := strings.CutSuffix(entry.Name(), ".json")
		if !isRecord {
			continue
		}
		record, err := Load(folder, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		records = append(records, record)
	}
	return records, errors.Join(errs...)
}
