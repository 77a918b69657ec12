package main

import (
	"regexp"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// answerAsKafka mends where kfake answers otherwise than Apache Kafka. kfake calls these functions one at a time.
func answerAsKafka(cluster *kfake.Cluster) {
	cluster.ControlKey(int16(kmsg.OffsetFetch), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		response := offsetsOfUnseen(cluster, request.(*kmsg.OffsetFetchRequest))
		return response, nil, response != nil
	})
	cluster.ControlKey(int16(kmsg.Metadata), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		createUnknown(cluster, request.(*kmsg.MetadataRequest))
		return nil, nil, false
	})
}

// offsetsOfUnseen answers for groups that nobody has used yet: nothing is committed. kfake says GROUP_ID_NOT_FOUND. nil: kfake may answer.
func offsetsOfUnseen(cluster *kfake.Cluster, request *kmsg.OffsetFetchRequest) kmsg.Response {
	if request.Version < 8 { // one group, without an error of its own: kfake answers as Kafka does
		return nil
	}
	response := request.ResponseKind().(*kmsg.OffsetFetchResponse)
	for _, asked := range request.Groups {
		if cluster.GroupInfo(asked.Group) != nil {
			return nil
		}
		group := kmsg.NewOffsetFetchResponseGroup()
		group.Group = asked.Group
		for _, t := range asked.Topics {
			topic := kmsg.NewOffsetFetchResponseGroupTopic()
			topic.Topic, topic.TopicID = t.Topic, t.TopicID
			for _, number := range t.Partitions {
				partition := kmsg.NewOffsetFetchResponseGroupTopicPartition()
				partition.Partition, partition.Offset, partition.LeaderEpoch = number, -1, -1
				topic.Partitions = append(topic.Partitions, partition)
			}
			group.Topics = append(group.Topics, topic)
		}
		response.Groups = append(response.Groups, group)
	}
	return response
}

var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// createUnknown creates the topics that a client asks for. kfake can do so itself, but keeps such topics only if it ends in order.
func createUnknown(cluster *kfake.Cluster, request *kmsg.MetadataRequest) {
	if request.Version >= 4 && !request.AllowAutoTopicCreation {
		return
	}
	for _, asked := range request.Topics {
		if asked.Topic != nil && topicName.MatchString(*asked.Topic) && cluster.TopicInfo(*asked.Topic) == nil {
			_ = cluster.CreateTopic(*asked.Topic, -1, nil) // what is wrong with the name, the answer tells
		}
	}
}
