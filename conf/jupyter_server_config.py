"""What `segkit lab` hands to JupyterLab. By hand: jupyter lab --config conf/jupyter_server_config.py"""

c = get_config()  # noqa: F821 - given by Jupyter

# "Create Notebook Job" goes through segkit's queue of batches: durable, no more at once than SEGKIT_BATCHES_AT_ONCE.
c.SchedulerApp.scheduler_class = "segkit.lab.notebook_jobs.QueueScheduler"
c.Scheduler.execution_manager_class = "segkit.lab.notebook_jobs.QueueExecutionManager"
