package main

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	metaFile      = "meta.json" // the first that kfake writes, and where its version stands
	lockFile      = "embedkq.lock"
	newestVersion = 1 // of what kfake writes, at the version in go.mod
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newClusterID() string {
	id := make([]byte, 8)
	rand.Read(id) // never fails
	return fmt.Sprintf("embedkq-%x", id)
}

// takeFolder makes the folder where it is missing, and holds it until this process ends: two brokers would ruin it.
func takeFolder(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return folderError(folder, err)
	}
	if err := checkContent(folder); err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(folder, lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return folderError(folder, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("cannot use the folder %s: another broker uses it", folder)
	}
	held = lock
	return nil
}

// held keeps the lock's file from being collected, and so closed.
var held *os.File

// checkContent refuses what was not written by a broker, or by one that is newer than this.
func checkContent(folder string) error {
	text, err := os.ReadFile(filepath.Join(folder, metaFile))
	if errors.Is(err, os.ErrNotExist) {
		return checkEmpty(folder)
	}
	if err != nil {
		return folderError(folder, err)
	}
	var meta struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(text, &meta) != nil {
		return fmt.Errorf("cannot use the folder %s: its %s is damaged", folder, metaFile)
	}
	if meta.Version > newestVersion {
		return fmt.Errorf("cannot use the folder %s: a newer broker wrote it (version %d, this one knows %d); upgrade embedkq or choose another folder",
			folder, meta.Version, newestVersion)
	}
	return nil
}

func checkEmpty(folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return folderError(folder, err)
	}
	for _, entry := range entries {
		switch entry.Name() {
		case lockFile, metaFile + ".tmp", "lost+found": // a first start that was cut short leaves the first two
		default:
			return fmt.Errorf("cannot use the folder %s: it holds %s, which is not a broker's; choose an empty or new one", folder, entry.Name())
		}
	}
	return nil
}

func folderError(folder string, err error) error {
	if folder == "" {
		return fmt.Errorf("cannot start: %w", err)
	}
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err
	}
	return fmt.Errorf("cannot use the folder %s: %w", folder, err)
}

// mend loads what a broker that was killed has left, and writes it anew.
//
// kfake skips a commit that was cut in the middle, but appends behind it: the next load would stop there, and lose the commits since.
func mend(options []kfake.Opt) error {
	nowhere := kfake.ListenFn(func(network, _ string) (net.Listener, error) { return net.Listen(network, "127.0.0.1:0") })
	cluster, err := kfake.NewCluster(append(options, nowhere)...)
	if err == nil {
		cluster.Close()
	}
	return err
}

// keepEnds has each partition that holds nothing any more, by age or because a client deleted all, go on from its end after a restart.
//
// kfake finds the end by the last batch on disk: without one it would start from 0 again, and a group that has committed more
// would pass over the next jobs. So an empty batch is put there, as Kafka's compaction leaves them.
func keepEnds(cluster *kfake.Cluster, folder string) {
	for _, topic := range topicsIn(folder) {
		for _, partition := range cluster.PartitionInfos(topic) {
			end := partition.HighWatermark
			if end == 0 || partition.LogStartOffset < end {
				continue
			}
			name := fmt.Sprintf("%s-%d", url.PathEscape(topic), partition.Partition)
			file := filepath.Join(folder, "partitions", name, fmt.Sprintf("%d.dat", end-1))
			if err := writeOnce(file, emptyBatch(end-1)); err != nil && !errors.Is(err, os.ErrExist) {
				fmt.Fprintf(os.Stderr, "cannot keep the end of partition %s: %v\n", name, err)
			}
		}
	}
}

func topicsIn(folder string) []string {
	var known struct {
		Topics []struct {
			Name string `json:"name"`
		} `json:"topics"`
	}
	text, err := os.ReadFile(filepath.Join(folder, "topics.json"))
	if err == nil {
		err = json.Unmarshal(text, &known)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot list the topics: %v\n", err)
	}
	names := make([]string, len(known.Topics))
	for i, topic := range known.Topics {
		names[i] = topic.Name
	}
	return names
}

// writeOnce leaves either the whole file or none.
func writeOnce(file string, content []byte) error {
	if _, err := os.Stat(file); err == nil {
		return os.ErrExist
	}
	draft := file + ".tmp"
	if err := os.WriteFile(draft, content, 0o644); err != nil {
		return err
	}
	return os.Rename(draft, file)
}

// emptyBatch holds no record, and takes up one offset.
func emptyBatch(offset int64) []byte {
	now := time.Now().UnixMilli()
	batch := kmsg.RecordBatch{
		FirstOffset: offset, PartitionLeaderEpoch: 0, Magic: 2, FirstTimestamp: now, MaxTimestamp: now,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
	}
	raw := batch.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12)) // what follows the length
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], castagnoli))
	return raw
}
