package main

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// These tests run kfake alone. One that fails tells that kfake has come to answer as Apache Kafka does: then take out what mends it
// here, its test, and its place in embedkq/guide/development-broker.rst.

const mended = "kfake answers as Apache Kafka does now: take out what mends it here, and its place in the guide"

func start(t *testing.T, options ...kfake.Opt) (*kfake.Cluster, *kgo.Client) {
	t.Helper()
	cluster, err := kfake.NewCluster(append(options, kfake.NumBrokers(1))...)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); cluster.Close() })
	return cluster, client
}

// answer is nil where there is none, and the test has failed.
func answer[A any](t *testing.T, client *kgo.Client, request kmsg.Request) A {
	t.Helper()
	response, err := client.Request(context.Background(), request)
	if err != nil {
		t.Fatal(err)
	}
	return response.(A)
}

func TestOffsetFetchOfAnUnusedGroup(t *testing.T) {
	_, client := start(t)
	request := kmsg.NewPtrOffsetFetchRequest()
	group := kmsg.NewOffsetFetchRequestGroup()
	group.Group = "unused"
	request.Groups = append(request.Groups, group)
	response := answer[*kmsg.OffsetFetchResponse](t, client, request)
	if response.Groups[0].ErrorCode != kerr.GroupIDNotFound.Code {
		t.Error(mended)
	}
}

func TestCreateTopicsNamesNoSource(t *testing.T) {
	_, client := start(t)
	request := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "topic", 1, 1
	config := kmsg.NewCreateTopicsRequestTopicConfig()
	config.Name, config.Value = "retention.ms", kmsg.StringPtr("1000")
	topic.Configs = append(topic.Configs, config)
	request.Topics = append(request.Topics, topic)
	response := answer[*kmsg.CreateTopicsResponse](t, client, request)
	for _, told := range response.Topics[0].Configs {
		if told.Source != -1 { // the protocol's default: not set
			t.Error(mended)
		}
	}
	if len(response.Topics[0].Configs) == 0 {
		t.Error("no configs are told: ", mended)
	}
}

func TestTopicsMadeOnFirstUseAreForgotten(t *testing.T) {
	folder := t.TempDir()
	_, client := start(t, kfake.DataDir(folder), kfake.AllowAutoTopicCreation())
	request := kmsg.NewPtrMetadataRequest()
	request.AllowAutoTopicCreation = true
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr("first-use")
	request.Topics = append(request.Topics, topic)
	if answer[*kmsg.MetadataResponse](t, client, request).Topics[0].ErrorCode != 0 {
		t.Fatal("the topic was not made")
	}
	if len(topicsIn(folder)) != 0 { // what a start after SIGKILL would find
		t.Error(mended)
	}
}

func TestAnEmptiedPartitionStartsFromZero(t *testing.T) {
	folder := t.TempDir()
	cluster, client := start(t, kfake.DataDir(folder), kfake.SeedTopics(1, "topic"))
	for range 3 {
		if err := client.ProduceSync(context.Background(), &kgo.Record{Topic: "topic", Value: []byte("one")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	if err := cluster.DeleteRecords("topic", 0, -1); err != nil {
		t.Fatal(err)
	}
	cluster.Close()
	again, _ := start(t, kfake.DataDir(folder))
	if again.PartitionInfo("topic", 0).HighWatermark != 0 {
		t.Error(mended)
	}
}

func TestAnAddressThatIsTakenIsAnError(t *testing.T) {
	taken, err := listen("127.0.0.1", "127.0.0.1", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = listen("127.0.0.1", "127.0.0.1", taken.(advertised).Listener.Addr().(*net.TCPAddr).Port)
	if err == nil || errors.Unwrap(err) != nil {
		t.Error("not told in a sentence of our own: ", err)
	}
}
