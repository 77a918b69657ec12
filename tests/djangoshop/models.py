"""What jobs and callbacks write."""

from django.db import models


class Order(models.Model):
    name = models.TextField()
    state = models.TextField(default="new")
