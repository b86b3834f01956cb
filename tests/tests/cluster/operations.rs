//! Every operation, by boto3, whose own parser accepts every answer.

use tests::cluster::Cluster;

#[test]
fn operations_without_an_agent() {
    let cluster = Cluster::new();
    cluster.check("operations.py");
}

#[test]
fn tasks_on_an_instance() {
    let cluster = Cluster::joined();
    cluster.check("tasks.py");
}

#[test]
fn services_on_an_instance() {
    let cluster = Cluster::joined();
    cluster.check("services.py");
}

#[test]
fn logs() {
    let cluster = Cluster::new();
    cluster.check("logs.py");
}

#[test]
fn the_operations_that_answer() {
    let cluster = Cluster::new();
    cluster.check("answering.py");
}
